"""Video operations as 2D operations on views: the same result, in less time.

In channels-last memory a video (N, C, T, H, W) lies as N T H W C, so that without a copy it is

    frames  (N * T, C, H, W)  for what acts in space alone: 1 x k x k convolutions, pooling
    rows    (N, C, T, H * W)  for what acts in time alone: k x1x1 convolutions

each in channels-last memory again, and both for what acts on channels alone. The 2D operations of
a library are better looked after than its 3D ones: on one thread of a CPU, torch's Conv3d leaves
oneDNN for most layers of an I3D. A video in other memory is brought into channels-last memory.

Views are made with the channels as the last axis: else an axis of size 1, as a batch of one clip,
gets a stride by which torch's operations take the memory for another (a max pool in time of one
clip took 28 times as long).

``enabled = False`` turns all of it off: then these are torch's 3D operations. So they are in
exported networks and under ``torch.func`` (`octvideo.layers.eager`), which know no memory formats.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers.eager import is_recorded
from octvideo.layers.max_pool import max_pool2d

enabled = True

torch.fx.wrap("conv3d")  # its views depend on sizes, which torch.fx does not know


def is_on() -> bool:
    """Returns whether videos are seen as images here."""
    return enabled and not is_recorded()


@contextmanager
def disabled() -> Iterator[None]:
    """Uses torch's 3D operations inside the context."""
    global enabled
    before, enabled = enabled, False
    try:
        yield
    finally:
        enabled = before


F_ = TypeVar("F_", bound=Callable[..., Any])


def for_each_frequency(fn: F_) -> F_:
    """Makes a function of maps act on both maps of an octave value."""

    @wraps(fn)
    def call(x: Any, *args: object, **kwargs: object) -> object:
        if hasattr(type(x), "map"):  # an OctTensor, which is built upon this module
            return x.map(fn, *args, **kwargs)
        return fn(x, *args, **kwargs)

    return cast("F_", call)


def channels_last(x: Tensor) -> Tensor:
    """Returns a video in channels-last memory, without a copy where it is so already."""
    return x if is_recorded() else x.contiguous(memory_format=torch.channels_last_3d)


@for_each_frequency
def frames(x: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N * T, C, H, W), in channels-last memory; a recorded video stays one."""
    if is_recorded():
        return x
    return channels_last(x).permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)


def rows(x: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N, C, T, H * W), in channels-last memory."""
    return channels_last(x).permute(0, 2, 3, 4, 1).flatten(2, 3).permute(0, 3, 1, 2)


@for_each_frequency
def video(x: Tensor, batch: int) -> Tensor:
    """The inverse of `frames`: (N * T, C, H, W) -> (N, C, T, H, W)."""
    if is_recorded():
        return x
    return x.permute(0, 2, 3, 1).unflatten(0, (batch, -1)).permute(0, 4, 1, 2, 3)


def per_channel(fn: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """Applies ``fn``, which acts on each channel of images (N, C, H, W), to images or videos."""
    batch, ndim = xs[0].shape[0], xs[0].ndim
    if ndim == 4:
        return fn(*xs)
    if is_on():
        return video(fn(*map(frames, xs)), batch)
    return fn(*(x.flatten(1, -3) for x in xs)).unflatten(1, xs[0].shape[1:-2])


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, ...] = (1, 1, 1),
    padding: tuple[int, ...] = (0, 0, 0),
    dilation: tuple[int, ...] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """``F.conv3d``: (N, C, T, H, W) -> (N, C_out, T', H', W'), to rounding.

    In 2D where the kernel is 1 in time or in space, else in 3D in channels-last memory.
    """
    if not is_on():
        return F.conv3d(x, weight, bias, stride, padding, dilation, groups)
    if is_in_space(weight, padding):
        x = x if stride[0] == 1 else x[:, :, :: stride[0]]
        kernel, options = weight.squeeze(2), (stride[1:], padding[1:], dilation[1:], groups)
        return video(conv2d(frames(x), kernel, bias, *options), x.shape[0])
    if is_in_time(weight, padding):
        x = x if stride[1:] == (1, 1) else x[..., :: stride[1], :: stride[2]]
        kernel = weight.squeeze(-1)
        options = ((stride[0], 1), (padding[0], 0), (dilation[0], 1), groups)
        return F.conv2d(rows(x), kernel, bias, *options).unflatten(3, x.shape[3:])
    return F.conv3d(channels_last(x), weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """``F.conv2d``: (N, C, H, W) -> (N, C_out, H', W'), to rounding.

    oneDNN's weight gradient of a strided 1x1 convolution of fewer than 8 channels in channels-last
    memory writes behind its buffers (torch 2.13, AVX-512), so the stride comes first there.
    """
    is_strided = tuple(stride) != (1, 1) and tuple(padding) == (0, 0)
    is_known = isinstance(weight, Tensor)  # torch.fx's proxies have no sizes to compare
    if is_strided and is_known and weight.shape[2:] == (1, 1) and x.shape[1] < 8:
        x, stride = x[..., :: stride[0], :: stride[1]], (1, 1)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def is_in_space(weight: Tensor, padding: tuple[int, ...]) -> bool:
    """Returns whether a kernel (C_out, C_in, k_t, k_h, k_w) sees one frame at a time."""
    return weight.shape[2] == 1 and padding[0] == 0


def is_in_time(weight: Tensor, padding: tuple[int, ...]) -> bool:
    """Returns whether a kernel (C_out, C_in, k_t, k_h, k_w) sees one pixel at a time."""
    return weight.shape[3:] == (1, 1) and padding[1:] == (0, 0)


@for_each_frequency
def max_pool3d(
    x: Tensor,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] | None = None,
    padding: tuple[int, int, int] = (0, 0, 0),
) -> Tensor:
    """``F.max_pool3d``: (N, C, T, H, W) -> (N, C, T', H', W'). In 2D where only space is pooled."""
    stride = stride or kernel
    if is_on() and (kernel[0], stride[0], padding[0]) == (1, 1, 0):
        return per_channel(lambda y: max_pool2d(y, kernel[1:], stride[1:], padding[1:]), x)
    if is_on() and (kernel[1:], stride[1:], padding[1:]) == ((1, 1), (1, 1), (0, 0)):
        options = ((kernel[0], 1), (stride[0], 1), (padding[0], 0))
        return max_pool2d(rows(x), *options).unflatten(3, x.shape[3:])
    return F.max_pool3d(x, kernel, stride, padding)


def avg_pool3d(x: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """``F.avg_pool3d`` with stride 1, to rounding: (N, C, T, H, W) -> (N, C, T', H', W').

    In 2D, over space and then over time.
    """
    if not is_on():
        return F.avg_pool3d(x, kernel, 1)
    y = per_channel(lambda y: F.avg_pool2d(y, kernel[1:], 1), x)
    return F.avg_pool2d(rows(y), (kernel[0], 1), 1).unflatten(3, y.shape[3:])


def grown(x: Tensor, window: tuple[int, ...], value: float) -> Tensor:
    """Pads x (N, C, T, H, W) behind with ``value`` to the size of the window (T, H, W), if smaller.

    For recorded networks: how much is added is part of the record, which is then right for inputs
    of every size, where min(size, window) as a kernel would be that of the recorded input.
    """
    missing: list[Any] = [0] * 6
    for axis, size in enumerate(window):
        n: Any = x.shape[2 + axis]
        if int(n) < size:
            missing[5 - 2 * axis] = (size - n).clamp(min=0) if isinstance(n, Tensor) else size - n
    return F.pad(x, missing, value=value) if any(int(n) for n in missing) else x


def padded(x: Tensor, conv: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Returns x and the padding by zeros that its convolution ``conv`` has left to do.

    What a convolution of torch cannot do itself (other padding modes, "same" around an even
    kernel) is done to x; ``conv`` has kernel_size, padding, dilation and padding_mode.
    """
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        return x, conv.padding
    pairs = padding_pairs(conv)
    if conv.padding_mode == "zeros" and all(before == after for before, after in pairs):
        return x, tuple(before for before, _ in pairs)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    amounts = [n for pair in reversed(pairs) for n in pair]
    return F.pad(x, amounts, mode), (0,) * len(pairs)


def padding_pairs(conv: Any) -> list[tuple[int, int]]:
    """Returns the pixels before and after each axis, for "same", "valid" or numbers as in torch."""
    if conv.padding == "valid":
        return [(0, 0) for _ in conv.kernel_size]
    if conv.padding == "same":
        sums = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        return [(n // 2, n - n // 2) for n in sums]
    return [(n, n) for n in conv.padding]


class Conv2d(nn.Conv2d):
    """torch's layer, as `conv2d` computes it."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C_out, H', W')."""
        x, padding = padded(x, self)
        return conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def plain(option: object) -> Any:
    """Returns an option of a convolution, with sizes as ints: others' are NumPy's, or in lists.

    The compiler cannot compare such sizes.
    """
    return tuple(map(int, option)) if isinstance(option, (list, tuple)) else option


class Conv3d(nn.Conv3d):
    """torch's layer, as `conv3d` computes it."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C_out, T', H', W')."""
        x, padding = padded(x, self)
        return conv3d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
