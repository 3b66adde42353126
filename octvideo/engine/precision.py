"""How a network is run: precision, memory format, compiler, and the switches of the device."""

import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import conv3d_as_2d
from octvideo.utils.errors import UserError
from octvideo.utils.memory import keep_freed_memory

logger = logging.getLogger("octvideo")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_COMPILERS = ("g++", "clang++", "c++", "cl")  # what torch.compile looks for on a CPU


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Returns a context that computes convolutions and products in "bf16" or "fp16".

    "fp32" changes nothing. Weights, batch-norm statistics and the output of the head stay float32
    (not the weights of ``optimize_for_inference``, which a test converts to half).
    """
    dtype = DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def channels_last(clips: Tensor) -> Tensor:
    """Returns clips (N, C, T, H, W) or images (N, C, H, W) with each position's channels side by
    side in memory."""
    return clips.contiguous(memory_format=_FORMATS[clips.ndim])


def move_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves the model to a device; its kernels are laid out as ``channels_last`` lays out input."""
    is_video = any(p.ndim == 5 for p in model.parameters())
    layout = _FORMATS[5 if is_video else 4]
    return model.to(device, memory_format=layout)  # type: ignore[call-overload]


def compile_model(model: nn.Module) -> None:
    """Compiles in place: names in the state dict stay, and copies are not compiled.

    Every size of input gets a graph of its own, which is the fastest; see ``Evaluation`` for
    batches that are smaller than the others.
    """
    model.compile(dynamic=False)


class Evaluation:
    """Runs a model on clips or images: float32 (N, 3, [T,] H, W) -> float32 (N, classes).

    Float32 weights run under ``autocast`` with ``precision``; weights in half, from
    ``optimize_for_inference``, get clips in half.

    A compiled model is compiled only once: a batch smaller than one before it is filled up with
    empty clips, whose results are dropped. In evaluation clips do not influence each other.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, precision: str, compiled: bool = False
    ) -> None:
        self.model, self.device, self.compiled, self.largest = model, device, compiled, 0
        self.dtype = next((p.dtype for p in model.parameters()), torch.float32)
        is_half = self.dtype != torch.float32
        self.context = partial(autocast, device, "fp32" if is_half else precision)

    def __call__(self, clips: Tensor) -> Tensor:
        count = len(clips)
        if self.compiled:
            self.largest = max(self.largest, count)
            clips = F.pad(clips, (0,) * (2 * clips.ndim - 1) + (self.largest - count,))
        with self.context():
            return self.model(channels_last(clips.to(self.dtype)))[:count].float()


def check_device(on_gpu: bool, precisions: Mapping[str, str], compiled: Sequence[str]) -> None:
    """Finds what precision and compiler need and the machine lacks.

    Args:
        precisions: of what runs, by the key of the configuration.
        compiled: the sections of the configuration whose models are compiled.

    Raises:
        UserError: names the key and what to set.
    """
    for key, precision in precisions.items():
        if precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported():
            raise UserError(f"{key} is bf16, which this GPU does not have: set fp16 or fp32")
    for section in compiled:
        if on_gpu and find_spec("triton") is None:
            raise UserError(
                f"{section}.COMPILE needs the package triton, which is not installed: install it, "
                f"or set {section}.COMPILE False"
            )
        names = [name for name in (os.environ.get("CXX"), *_COMPILERS) if name]
        if not on_gpu and not any(map(shutil.which, names)):
            raise UserError(
                f"{section}.COMPILE on a CPU needs a C++ compiler, and there is none of "
                f"{', '.join(names)}: install one, or set {section}.COMPILE False"
            )


def prepare_device(device: torch.device, as_2d: bool, benchmark: bool, tf32: bool) -> None:
    """Sets the switches of this process.

    Args:
        as_2d: compute 3D convolutions as 2D ones where they are.
        benchmark: let cuDNN choose the fastest algorithm of each convolution.
        tf32: allow TensorFloat-32 products on a GPU.
    """
    conv3d_as_2d.enabled = as_2d
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32


def warn_of_faults(
    device: torch.device, precisions: Collection[str], train_precision: str, has_short_clips: bool
) -> None:
    """Warns of versions of torch and cuDNN with known faults in what runs.

    Args:
        train_precision: "" if nothing is trained.
        has_short_clips: some kernel has more taps in time than its input has frames.
    """
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    for fault in known_faults(torch.__version__, cudnn, set(precisions)):
        logger.warning(fault)
    if device.type == "cpu" and train_precision == "bf16" and has_short_clips:
        logger.warning(
            "bf16 on a CPU: torch 2.13 computes wrong gradients for 3D convolutions with more taps "
            "in time than frames; give more frames (DATA.NUM_FRAMES), or set TRAIN.PRECISION fp32"
        )


def known_faults(torch_version: str, cudnn: int | None, precisions: set[str]) -> list[str]:
    """Returns what is known to be slow or wrong with 3D convolutions on a GPU.

    ``cudnn`` is its version, None without a GPU.

    Sources: issues 163539 (wrong results, cuDNN 9.8 to 9.10) and 166643 (2.9 avoids cuDNN) of
    pytorch/pytorch.
    """
    faults: list[str] = []
    half = sorted(precisions - {"fp32"})
    if cudnn is None or not half:
        return faults
    if torch_version.startswith("2.9."):
        faults.append(
            f"torch {torch_version} runs 3D convolutions in {' and '.join(half)} about four times "
            "slower than other versions, and in more memory: install torch 2.8 or 2.10 and later"
        )
    if "bf16" in half and 90800 <= cudnn < 91100:
        version = f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}"
        faults.append(
            f"cuDNN {version} can give wrong results for 3D convolutions in bf16: install cuDNN "
            "9.15 or later, or set the precision to fp16 or fp32"
        )
    return faults
