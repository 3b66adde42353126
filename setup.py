"""Installs the octvideo package; the exact versions known to work are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

EXTRAS = {
    "decord": ["decord==0.6.0; platform_machine == 'x86_64'"],
    # The last torchcodec wheel on PyPI that loads beside a CPU build of torch.
    "torchcodec": ["torchcodec==0.13.0"],
    "safetensors": ["safetensors>=0.4"],
    "hub": ["huggingface_hub>=0.30", "safetensors>=0.4"],
    "torchvision": ["torchvision>=0.19"],
    "timm": ["timm>=1.0"],
    # It imports torchvision, and does not say so.
    "pytorchvideo": ["pytorchvideo==0.1.5", "torchvision>=0.19"],
    "slurm": ["submitit>=1.5"],
    "onnx": ["onnx>=1.16", "onnxscript>=0.2", "onnxruntime>=1.18"],
    "openvino": ["openvino>=2024.4", "onnx>=1.16", "onnxscript>=0.2"],
    # Of files that octvideo[onnx] or octvideo[openvino] run.
    "int8": ["nncf>=3.0"],
    "plot": ["matplotlib>=3.6"],
    "dev": [
        *("pytest>=8", "pytest-timeout>=2.2", "pytest-xdist>=3.6", "hypothesis>=6.90"),
        *("ruff>=0.6", "mypy>=1.10"),
    ],
}


class BuildWithConfigs(build_py):
    """Puts configs/ of the clone into the package, where ``--cfg NAME`` finds it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # then the package is in the clone, beside them
            self.copy_tree(str(ROOT / "configs"), str(Path(self.build_lib, "octvideo", "configs")))


setup(
    name="octvideo",
    version="0.1.0",
    description="Octave Convolution for video action recognition in PyTorch",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="octvideo contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="video action recognition, octave convolution, Kinetics, PySlowFast",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["octvideo", "octvideo.*"]),
    package_data={
        "octvideo": ["py.typed"],
        "octvideo.data": ["class_names/*.json"],
        "octvideo.weights": ["packaged/*"],
    },
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["octvideo = octvideo.cli.main:main"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4,!=2.9.*",  # 2.9 runs Conv3d under autocast about four times slower
        "numpy>=1.24",
        "av>=17,<19",
        "pillow>=9.4",  # fvcore and tensorboard bring it too
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",
        "tensorboard>=2.12",
        "tqdm>=4.65",
        "pyyaml>=6",
    ],
    extras_require=EXTRAS,
)
