"""How a network is run: precision, memory format, compiler, and the switches of the device."""

import logging
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from octvideo.config import train_precision
from octvideo.layers import conv3d_as_2d
from octvideo.utils.errors import UserError
from octvideo.utils.memory import keep_freed_memory

logger = logging.getLogger("octvideo")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_COMPILERS = ("g++", "clang++", "c++", "cl")  # what torch.compile looks for on a CPU


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Where convolutions and products are computed in "bf16" or "fp16"; "fp32" changes nothing.

    Weights, batch-norm statistics and what the head gives stay float32. (Those of
    ``optimize_for_inference`` do not: a test has its weights in half.)
    """
    dtype = DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def channels_last(clips: Tensor) -> Tensor:
    """The same clips (N, C, T, H, W) or pictures (N, C, H, W), each position's channels side by
    side in memory."""
    return clips.contiguous(memory_format=_FORMATS[clips.ndim])


def move_model(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, its kernels laid out as ``channels_last`` lays out its input."""
    is_video = any(p.ndim == 5 for p in model.parameters())
    return model.to(device, memory_format=_FORMATS[5 if is_video else 4])


def compile_model(model: nn.Module) -> None:
    """torch.compile in place: names in the state dict stay, and copies are not compiled.

    Every size of input has a graph of its own, the fastest there is; see ``Evaluation`` for
    batches that are smaller than the others.
    """
    model.compile(dynamic=False)


class Evaluation:
    """A model on batches of clips (pictures): float32 (N, 3, [T,] H, W) -> float32 (N, classes).

    Float32 weights are used under ``autocast`` with ``precision``; weights in half, those of
    ``optimize_for_inference``, get clips in half.

    A compiled model is compiled once: a batch smaller than one before it is filled up with empty
    clips, whose results are left out. In evaluation no clip sees another one.
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


def precisions_of(cfg: CfgNode) -> dict[str, str]:
    """The precision of what is enabled, by its key."""
    train = "TRAIN.MIXED_PRECISION" if cfg.TRAIN.MIXED_PRECISION else "TRAIN.PRECISION"
    keys = {train: train_precision(cfg)} if cfg.TRAIN.ENABLE else {}
    return {**keys, **({"TEST.PRECISION": cfg.TEST.PRECISION} if cfg.TEST.ENABLE else {})}


def check_device(cfg: CfgNode) -> None:
    """Finds what precision and compiler need and the machine has not.

    Raises:
        UserError: names the key and what to set.
    """
    on_gpu = cfg.NUM_GPUS > 0
    for key, precision in precisions_of(cfg).items():
        if precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported():
            raise UserError(f"{key} is bf16, which this GPU does not have: set fp16 or fp32")
    for section in ("TRAIN", "TEST"):
        if not (cfg[section].ENABLE and cfg[section].COMPILE):
            continue
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


def prepare_device(cfg: CfgNode, device: torch.device) -> None:
    """Sets the switches of cuDNN, TF32 and memory, and warns of versions with known faults."""
    conv3d_as_2d.enabled = cfg.MODEL.FOLD_CONV3D
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        torch.backends.cudnn.allow_tf32 = cfg.ALLOW_TF32
        torch.backends.cuda.matmul.allow_tf32 = cfg.ALLOW_TF32
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    for fault in known_faults(torch.__version__, cudnn, set(precisions_of(cfg).values())):
        logger.warning(fault)
    trains_in_bf16 = cfg.TRAIN.ENABLE and train_precision(cfg) == "bf16"
    if device.type == "cpu" and trains_in_bf16 and _has_short_clips(cfg):
        logger.warning(
            "bf16 on a CPU: torch 2.13 computes wrong gradients for 3D convolutions with more taps "
            "in time than frames; give more frames (DATA.NUM_FRAMES), or set TRAIN.PRECISION fp32"
        )


def known_faults(torch_version: str, cudnn: int | None, precisions: set[str]) -> list[str]:
    """What is known to be slow or wrong with 3D convolutions on a GPU; ``cudnn`` None: no GPU.

    Sources: issues 163539 (wrong results, cuDNN 9.8 to 9.10) and 166643 (2.9 avoids cuDNN) of
    pytorch/pytorch.
    """
    faults = []
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


def _has_short_clips(cfg: CfgNode) -> bool:
    """Whether a kernel in time may be longer than the map: 5 at the stem, 3 later on.

    The later ones are 2D convolutions where MODEL.FOLD_CONV3D is on.
    """
    frames, arch = cfg.DATA.NUM_FRAMES, cfg.MODEL.ARCH
    stem = arch in ("i3d", "slow_i3d", "slowfast") and frames < 6
    fewest = frames // cfg.SLOWFAST.ALPHA if arch == "slowfast" else frames
    return stem or (not cfg.MODEL.FOLD_CONV3D and arch not in ("c2d", "slow_c2d") and fewest < 3)
