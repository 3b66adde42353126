"""Models for inference: the same function in fewer, larger operations."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.layers import (
    NonLocal3d,
    Value,
    conv3d_as_2d,
    convert,
    per_frequency,
    pool_high,
)
from octvideo.layers.fused import FusedConv, folded, is_fusible
from octvideo.models.blocks import BasicTransform, ResBlock, Stem
from octvideo.models.optimize2d import FUSED_2D, dense, fold_norms
from octvideo.models.slowfast import Fuse
from octvideo.utils.errors import NonFiniteError


def optimize_for_inference(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a model of octvideo for inference, faster, with the same outputs to rounding.

    Batch norm is folded into the convolutions, the slices of an octave weight are stored apart,
    sums and ReLU are done with the convolutions or in place. Batch norm before the first
    convolution of a pre-activation block or dense layer stays. The copy is in evaluation mode and
    has no parameters to train; what the model learns afterwards does not reach it. Its blocks are
    other modules, without the hooks that the model's may have, and overwrite what they are given:
    a hook that keeps a value has to clone it.

    On a CPU, ``octvideo.utils.memory.keep_freed_memory()`` makes it faster still.

    Args:
        model: stays as it is. Blocks that are not known here are left as they are.
        dtype: torch.bfloat16 or torch.float16 for all weights and inputs; None: as they are.
            The model's output is in float32 all the same.

    Raises:
        NonFiniteError: weights are nan or inf, or become so in ``dtype``.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        _replace(model)
    if dtype is not None:
        model.to(dtype)
    _check_finite(model)
    return model


def _check_finite(model: nn.Module) -> None:
    """oneDNN's ReLU makes 0 of nan, so lost weights would give finite, meaningless scores."""
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise NonFiniteError(
                f"weights are nan or inf ({name}, {str(value.dtype).removeprefix('torch.')}): the "
                "training run diverged, or they exceed the range of fp16; use another checkpoint, "
                "or fp32"
            )


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        fused = _FUSED.get(type(child))
        if fused is not None and _is_fusible(child):
            setattr(module, name, fused(child))
        else:
            fold_norms(child)
            _replace(child)


def _is_fusible(block: nn.Module) -> bool:
    return all(is_fusible(module) for module in block.modules() if hasattr(module, "padding_mode"))


class _FusedStem(nn.Module):
    """conv, max pool, ReLU: the order of the last two does not matter, but their cost does."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.conv = FusedConv(stem.conv, stem.bn)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, C, T, H/4, W/4)."""
        y = self.conv.on_video(x)
        return conv3d_as_2d.max_pool3d(y, (1, 3, 3), (1, 2, 2), (0, 1, 1)).relu_()


class _FusedBlock(nn.Module):
    """relu(shortcut(x) + branch2(x)), the sum in the memory of the shortcut (or of x)."""

    def __init__(self, block: ResBlock) -> None:
        super().__init__()
        self.dim_out = block.dim_out
        self.branch1 = None
        if block.branch1 is not None:
            self.branch1 = FusedConv(block.branch1, block.branch1_bn)
        names = ("a", "b") if isinstance(block.branch2, BasicTransform) else ("a", "b", "c")
        layers = dict(block.branch2.named_children())
        self.branch2 = nn.ModuleList(
            FusedConv(layers[name], layers[f"{name}_bn"], relu=True) for name in names
        )

    def forward(self, x: Value) -> Value:
        """(N, dim_in, T, H, W) -> (N, dim_out, T, H/stride, W/stride)."""
        batch, _, num_frames, _, _ = (x if isinstance(x, Tensor) else x[0]).shape
        x = per_frequency(conv3d_as_2d.frames, x)
        first, *middle, last = self.branch2
        pooled = None
        if self.branch1 is not None and first.needs_pooled:
            pooled = pool_high(x)  # for both branches
        y = first(x, num_frames, pooled=pooled)
        for conv in middle:
            y = conv(y, num_frames)
        if self.branch1 is not None:
            shortcut = self.branch1(x, num_frames, pooled=pooled)
        else:
            shortcut = per_frequency(dense, convert(x, self.dim_out))
        return per_frequency(lambda y: conv3d_as_2d.video(y, batch), last(y, num_frames, shortcut))


class _FusedFuse(nn.Module):
    """SlowFast's lateral connection: slow <- [slow | relu(conv(fast))]."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.conv = FusedConv(fuse.conv_f2s, fuse.bn, relu=True)

    def forward(self, xs: list[Value]) -> list[Value]:
        """As ``Fuse``."""
        slow, fast = xs
        return Fuse.join(slow, self.conv.on_video(fast), fast)


def _fused_non_local(block: Any) -> nn.Module:
    """The block itself, its batch norm folded into conv_out."""
    if isinstance(block.bn, nn.Identity):  # optimised already
        return block
    weight, bias = folded(block.conv_out, block.bn)
    block.conv_out.weight.copy_(weight)
    block.conv_out.bias.copy_(bias)
    block.bn = nn.Identity()
    return block


_FUSED: dict[type, Callable[..., nn.Module]] = {
    Stem: _FusedStem,
    ResBlock: _FusedBlock,
    Fuse: _FusedFuse,
    NonLocal3d: _fused_non_local,
    **FUSED_2D,
}
