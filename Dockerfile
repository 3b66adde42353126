# octvideo on a CPU:     docker build -t octvideo .
# or on NVIDIA's GPUs:   docker build -t octvideo:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#
#   docker run --rm -it --shm-size 8g -v "$PWD:/work" octvideo predict --model oct_i3d_synthetic clip.mp4
FROM python:3.11-slim-bookworm

# The wheels of torch: those for CPUs, or those for a version of CUDA, which bring its libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=hub,onnx,openvino,plot

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /octvideo
# torch first: it is large, and changes less often than the code.
COPY constraints.txt ./
RUN pip install -c constraints.txt torch --index-url "$TORCH_INDEX"
COPY . ./
RUN pip install -c constraints.txt ".[$EXTRAS]" && pip check

# Not as root: what it writes into a mounted folder belongs to the user with this number.
RUN useradd --uid 1000 --user-group --create-home octvideo
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["octvideo"]
CMD ["--help"]
