"""Max pooling that keeps where the maxima are for the backward pass, and not what was pooled."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from octvideo.layers.eager import is_eager

Pair = tuple[int, int]


def max_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Tensor:
    """``F.max_pool2d``: (N, C, H, W) -> (N, C, H', W'), the same values and gradients.

    torch keeps x, which its gradient has no use for. The maps of a stem are the largest of a
    network: with its ReLU behind the pool, too, training keeps the convolution's output alone.
    """
    if is_eager() and torch.is_grad_enabled() and x.requires_grad:
        return _MaxPool2d.apply(x, kernel, stride, padding)[0]
    return F.max_pool2d(x, kernel, stride, padding)


class _MaxPool2d(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, *options: Pair) -> tuple[Tensor, Tensor]:
        y, where = torch.ops.aten.max_pool2d_with_indices(x, *options)
        return y, _within_window(where, x.shape[-2:], *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, *ctx.options = inputs
        ctx.layout = x.shape, x.stride()
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (where,) = ctx.saved_tensors
        like_x = gradient.new_empty_strided(*ctx.layout)  # its layout counts, not its values
        where = where + _corners(where, like_x.shape[-2:], *ctx.options)
        dilation, ceil_mode = (1, 1), False
        gradient = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient, like_x, *ctx.options, dilation, ceil_mode, where
        )
        return gradient, None, None, None


def _within_window(where: Tensor, size: torch.Size, *options: Pair) -> Tensor:
    """Returns places in images of ``size``, counted from the corner of each window.

    Most windows are a few rows high, so that two bytes hold what torch keeps in eight.
    """
    rows = options[0][0] + options[2][0]  # of a window, and of padding
    dtype = torch.int16 if rows * size[1] < 2**15 else torch.int32
    return torch.sub(where, _corners(where, size, *options)).to(dtype)


def _corners(where: Tensor, size: torch.Size, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """The place of the first pixel of each window (H', W'), int64; in the padding if negative."""
    y, x = (
        torch.arange(n, device=where.device) * s - p
        for n, s, p in zip(where.shape[-2:], stride, padding, strict=True)
    )
    return y[:, None] * size[1] + x
