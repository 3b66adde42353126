"""Octave convolution written out (the paper's Eq. 4), and the layers that are compared with it."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import OctConv2d, OctConv3d

LAYERS = {2: OctConv2d, 3: OctConv3d}
FRAMES = 5

both_dims = pytest.mark.parametrize("ndim", [2, 3])


@dataclass(frozen=True)
class Case:
    """One layer: counts are (high, low); ``frames`` is (kernel, stride) in time, for 3D."""

    c_in: tuple[int, int]
    c_out: tuple[int, int]
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    frames: tuple[int, int] = (3, 1)

    def build(self, ndim: int) -> nn.Module:
        k, s, d = self.kernel, self.stride, self.dilation
        kernel, stride, padding, dilation = (k,) * 2, (s,) * 2, (d * (k // 2),) * 2, (d,) * 2
        if ndim == 3:
            k_t, s_t = self.frames
            kernel, stride = (k_t, *kernel), (s_t, *stride)
            padding, dilation = (k_t // 2, *padding), (1, *dilation)
        layer = LAYERS[ndim](
            self.c_in,
            self.c_out,
            kernel,
            stride,
            padding,
            dilation,
            self.groups,
            self.bias,
        )
        return layer.double()


CASES = {
    "pair": Case((5, 3), (4, 6)),
    "pair 1x1": Case((5, 3), (4, 6), kernel=1),
    "pair 5x5": Case((5, 3), (4, 6), kernel=5),
    "pair stride 2": Case((5, 3), (4, 6), stride=2),
    "pair 1x1 stride 2": Case((5, 3), (4, 6), kernel=1, stride=2),
    "first": Case((8, 0), (4, 6)),
    "first stride 2": Case((8, 0), (4, 6), stride=2),
    "last": Case((5, 3), (10, 0)),
    "last stride 2": Case((5, 3), (10, 0), stride=2),
    "no bias": Case((5, 3), (4, 6), bias=False),
    "one frame": Case((5, 3), (4, 6), frames=(1, 1)),
    "temporal stride": Case((5, 3), (4, 6), frames=(5, 2)),
    "temporal and spatial stride": Case((5, 3), (4, 6), stride=2, frames=(3, 2)),
    "frames alone": Case((5, 3), (4, 6), kernel=1, frames=(3, 1)),
    "frames alone, strided": Case((5, 3), (4, 6), kernel=1, frames=(5, 2)),
    "frames alone, last, strided": Case((5, 3), (10, 0), kernel=1, frames=(3, 2)),
    "dilation": Case((5, 3), (4, 6), dilation=2),
    "dilation and stride": Case((5, 3), (4, 6), dilation=2, stride=2),
    "groups": Case((6, 2), (4, 8), groups=2),
    "groups stride 2": Case((6, 2), (4, 8), groups=2, stride=2),
    "groups first": Case((8, 0), (4, 8), groups=4),
    "groups last": Case((4, 8), (8, 0), groups=4),
    "depthwise": Case((5, 3), (5, 3), groups=8),
    "depthwise stride 2": Case((5, 3), (5, 3), groups=8, stride=2),
    "depthwise multiplied": Case((5, 3), (10, 6), groups=8),
}
all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def half(n: int) -> int:
    return -(-n // 2)


def make_input(channels: tuple[int, int], ndim: int, size: tuple[int, int] = (9, 12), n: int = 2):
    """A random value in double precision whose low part has half the size, rounded up."""
    frames = (FRAMES,) if ndim == 3 else ()
    h, w = size
    high, low = channels
    x_h = torch.randn(n, high, *frames, h, w, dtype=torch.double)
    if not low:
        return x_h
    return x_h, torch.randn(n, low, *frames, half(h), half(w), dtype=torch.double)


def pool_reference(x: Tensor) -> Tensor:
    if x.ndim == 4:
        return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    return F.avg_pool3d(x, (1, 2, 2), (1, 2, 2), ceil_mode=True, count_include_pad=False)


def upsample_reference(x: Tensor, like: Tensor) -> Tensor:
    h, w = like.shape[-2:]
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :h, :w]


def eq4(layer: nn.Module, case: Case, x):
    """The paper's equation with the four kernels cut from the weight, [L | H], by hand."""
    x_h, x_l = (x, None) if isinstance(x, Tensor) else x
    low_in, low_out = case.c_in[1], case.c_out[1]
    weight, bias = layer.weight, layer.bias
    depthwise = case.groups > 1 and case.groups == sum(case.c_in)
    columns = low_in if case.groups == 1 else low_in // case.groups
    two_d = x_h.ndim == 4
    conv = F.conv2d if two_d else F.conv3d
    pad = case.dilation * (case.kernel // 2)

    def f(x: Tensor, kernel: Tensor) -> Tensor:
        groups = x.shape[1] if depthwise else case.groups
        if two_d:
            return conv(x, kernel, None, 1, pad, case.dilation, groups)
        k_t, s_t = case.frames
        padding, dilation = (k_t // 2, pad, pad), (1, case.dilation, case.dilation)
        return conv(x, kernel, None, (s_t, 1, 1), padding, dilation, groups)

    def biased(y: Tensor, part: slice) -> Tensor:
        return y if bias is None else y + bias[part].reshape(1, -1, *[1] * (y.ndim - 2))

    if case.stride == 2:
        x_h, l_to_l = pool_reference(x_h), None if x_l is None else pool_reference(x_l)
    else:
        l_to_l = x_l
    if depthwise:
        y_h, y_l = f(x_h, weight[low_out:]), f(l_to_l, weight[:low_out])
        return biased(y_h, slice(low_out, None)), biased(y_l, slice(0, low_out))

    y_h = f(x_h, weight[low_out:, columns:])
    if x_l is not None:
        l_to_h = f(x_l, weight[low_out:, :columns])
        y_h = y_h + (l_to_h if case.stride == 2 else upsample_reference(l_to_h, y_h))
    y_h = biased(y_h, slice(low_out, None))
    if not low_out:
        return y_h
    y_l = f(pool_reference(x_h), weight[:low_out, columns:])
    if l_to_l is not None:
        y_l = y_l + f(l_to_l, weight[:low_out, :columns])
    return y_h, biased(y_l, slice(0, low_out))


def parts(x) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def require_grad(x):
    for part in parts(x):
        part.requires_grad_()
    return x
