"""Octave values: feature maps of which part of the channels are at half the spatial resolution.

An octave value is a tuple ``(x_h, x_l)``: ``x_h`` of shape (N, c_h, [T,] H, W) and ``x_l`` of
shape (N, c_l, [T,] ceil(H/2), ceil(W/2)). A plain tensor is a value without low frequency.
The octave is in space only: both parts have the same T.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from octvideo.layers import conv3d_as_2d
from octvideo.layers.eager import is_recorded

Value = Tensor | tuple[Tensor, Tensor]


class Channels(NamedTuple):
    """The channel counts of an octave value; ``low`` is 0 for a plain tensor."""

    high: int
    low: int = 0

    @property
    def total(self) -> int:
        return self.high + self.low


def split_channels(channels: int, alpha: float, divisor: int = 1) -> Channels:
    """Splits a channel count into ``Channels(high, low)``; 64 at .1 gives (58, 6).

    The low part is ``int(alpha * channels)``, the rule of the authors' code, rounded to the
    nearest multiple of ``divisor`` (1: the paper; 8: sizes that GPUs like). This is the only
    place where a channel count meets alpha; everywhere else the pair is passed on.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}")
    if divisor < 1:
        raise ValueError(f"the channel divisor must be at least 1, got {divisor}")
    if channels < 1:
        raise ValueError(f"a channel count must be at least 1, got {channels}")
    low = divisor * int(int(alpha * channels) / divisor + 0.5)
    if low >= channels:  # rounded up to nothing but low channels
        low -= divisor
    return Channels(channels - low, low)


def as_channels(channels: int | tuple[int, int], alpha: float) -> Channels:
    """A count, split by alpha, or the pair (high, low) itself."""
    if not isinstance(channels, tuple):
        return split_channels(operator.index(channels), alpha)
    if len(channels) != 2:
        raise ValueError(f"channels are a count or a pair (high, low), got {channels}")
    if alpha:
        raise ValueError(f"channels {channels} are split already: leave out alpha = {alpha}")
    return Channels(*channels)


def per_frequency(fn: Callable[..., Tensor], *values: Value) -> Value:
    """``fn`` of the high parts and ``fn`` of the low parts; just ``fn`` of plain tensors."""
    if isinstance(values[0], Tensor):
        return fn(*values)
    high, low = zip(*values, strict=True)
    return fn(*high), fn(*low)


def pool(x: Tensor) -> Tensor:
    """Average over 2x2 pixels: (..., H, W) -> (..., ceil(H/2), ceil(W/2))."""
    options = {"ceil_mode": True, "count_include_pad": False}
    if x.ndim == 5 and torch.onnx.is_in_onnx_export() and min(map(int, x.shape[-2:])) > 1:
        # Reshaping ties an ONNX record to the size of x; but torch refuses windows beyond the map.
        return F.avg_pool3d(x, (1, 2, 2), **options)
    return conv3d_as_2d.per_channel(lambda y: F.avg_pool2d(y, 2, **options), x)


def pool_high(x: Value) -> Tensor:
    """pool(x_h)."""
    return pool(x if isinstance(x, Tensor) else x[0])


def upsample(x: Tensor, size: torch.Size) -> Tensor:
    """Nearest upsampling of the last two axes to ``size`` (H, W); the identity if they fit.

    From ceil(n/2) to n pixels this equals repeating every pixel twice and cropping to n.
    """
    if is_recorded():  # perhaps for other sizes
        return F.interpolate(x, (*x.shape[2:-2], *size))
    if x.shape[-2:] == size:
        return x
    return conv3d_as_2d.per_channel(lambda y: F.interpolate(y, size), x)


def add_upsampled(x: Tensor, low: Tensor) -> Tensor:
    """x + upsample(low), in the memory of the upsampled map."""
    size = x.shape[-2:]
    if is_recorded():  # perhaps for other sizes, and without operations in place
        return x + upsample(low, size)
    if low.shape[-2:] == size:
        return x + low
    return conv3d_as_2d.per_channel(lambda low, x: F.interpolate(low, size).add_(x), low, x)


def join_groups(x_l: Tensor, x_h: Tensor, groups: int) -> Tensor:
    """[x_l | x_h] along the channels of each group of a convolution: all of both in one group."""
    if groups == 1:
        return torch.cat([x_l, x_h], dim=1)
    parts = [x.unflatten(1, (groups, -1)) for x in (x_l, x_h)]
    return torch.cat(parts, dim=2).flatten(1, 2)


def merge(x: Value) -> Tensor:
    """One tensor at the high resolution, [upsampled L | H] along the channels."""
    if isinstance(x, Tensor):
        return x
    x_h, x_l = x
    return torch.cat([upsample(x_l, x_h.shape[-2:]), x_h], dim=1)


def convert(x: Value, channels: Channels) -> Value:
    """x as a value of these channels, without arithmetic but for pooling: ``merge`` or its inverse.

    A plain tensor becomes a pair by taking its first ``channels.low`` channels, pooled, as L.
    """
    if not channels.low:
        return merge(x)
    if isinstance(x, Tensor):
        return x[:, channels.low :], pool(x[:, : channels.low])
    return x


def check_value(x: Value, channels: Channels, ndim: int, layer: nn.Module) -> None:
    """Raises ValueError unless x is a value of these channels with ``ndim`` axes per tensor."""
    if any(isinstance(part, Proxy) for part in (x if isinstance(x, tuple) else (x,))):
        return  # torch.fx knows no shapes
    name = type(layer).__name__
    is_pair = isinstance(x, (tuple, list)) and len(x) == 2
    if channels.low and not is_pair:
        raise ValueError(
            f"{name} with {channels.high} high and {channels.low} low channels takes a pair "
            f"(x_h, x_l), got {_describe(x)}"
        )
    if not channels.low and not isinstance(x, Tensor):
        raise ValueError(f"{name} without low channels takes one tensor, got {_describe(x)}")
    parts = (x,) if isinstance(x, Tensor) else x
    for part, count, word in zip(parts, channels, ("high", "low"), strict=False):
        if not isinstance(part, Tensor) or part.ndim != ndim or part.shape[1] != count:
            raise ValueError(
                f"{name} expects {count} {word} channels in a {ndim}-D tensor, "
                f"got {_describe(part)}"
            )
    if len(parts) == 2:
        (x_h, x_l) = parts
        half = torch.Size([*x_h.shape[2:-2], *((n + 1) // 2 for n in x_h.shape[-2:])])
        if x_l.shape[0] != x_h.shape[0] or x_l.shape[2:] != half:
            raise ValueError(
                f"{name}: the low part of {_describe(x_h)} must have its batch size and be "
                f"{tuple(half)} in time and space, got {_describe(x_l)}"
            )


def _describe(x: object) -> str:
    if isinstance(x, Tensor):
        return f"a tensor of shape {tuple(x.shape)}"
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__} of {len(x)}"
    return f"a {type(x).__name__}"
