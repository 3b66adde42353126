"""Halving and doubling the spatial resolution of maps, as the operator does it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from octvideo.layers import conv3d_as_2d
from octvideo.layers.eager import is_recorded


def half_size(size: torch.Size) -> torch.Size:
    """(..., H, W) -> (..., ceil(H/2), ceil(W/2)): the size of the low maps beside high ones."""
    return torch.Size([*size[:-2], *((n + 1) // 2 for n in size[-2:])])


def pool(x: Tensor) -> Tensor:
    """Averages over 2x2 pixels: (..., H, W) -> (..., ceil(H/2), ceil(W/2))."""
    options = {"ceil_mode": True, "count_include_pad": False}
    if x.ndim == 5 and torch.onnx.is_in_onnx_export() and min(map(int, x.shape[-2:])) > 1:
        # Reshaping ties an ONNX record to the size of x; but torch refuses windows beyond the map.
        return F.avg_pool3d(x, (1, 2, 2), **options)
    return conv3d_as_2d.per_channel(lambda y: F.avg_pool2d(y, 2, **options), x)


def upsample(x: Tensor, size: torch.Size) -> Tensor:
    """Repeats pixels until the last two axes have ``size`` (H, W); the identity if they fit.

    From ceil(n/2) to n pixels this equals repeating every pixel twice and cropping to n.
    """
    if is_recorded():  # perhaps for other sizes
        return F.interpolate(x, (*x.shape[2:-2], *size))
    if x.shape[-2:] == size:
        return x
    return conv3d_as_2d.per_channel(lambda y: F.interpolate(y, size), x)


def add_upsampled(x: Tensor, low: Tensor) -> Tensor:
    """Returns x + upsample(low), in the memory of the upsampled map."""
    size = x.shape[-2:]
    if is_recorded():  # perhaps for other sizes, and without operations in place
        return x + upsample(low, size)
    if low.shape[-2:] == size:
        return x + low
    return conv3d_as_2d.per_channel(lambda low, x: F.interpolate(low, size).add_(x), low, x)


def join_groups(x_l: Tensor, x_h: Tensor, groups: int) -> Tensor:
    """Concatenates [x_l | x_h] in each group of a convolution: all of both in one group."""
    if groups == 1:
        return torch.cat([x_l, x_h], dim=1)
    parts = [x.unflatten(1, (groups, -1)) for x in (x_l, x_h)]
    return torch.cat(parts, dim=2).flatten(1, 2)
