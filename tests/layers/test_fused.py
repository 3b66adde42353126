"""Fused convolutions against the layers that they are made from."""

import pytest
import torch
from torch import Tensor, nn

from octvideo.layers import (
    OctBatchNorm2d,
    OctBatchNorm3d,
    OctConv2d,
    OctTensor,
    conv3d_as_2d,
    per_frequency,
)
from octvideo.layers.fused import FusedConv, folded
from support.eq4 import Case, all_cases, both_dims, make_input, parts

NORMS = {2: OctBatchNorm2d, 3: OctBatchNorm3d}


def norm_of(channels: tuple[int, int], ndim: int) -> nn.Module:
    norm = NORMS[ndim](channels).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def as_value(x: Tensor | tuple[Tensor, Tensor] | OctTensor) -> Tensor | OctTensor:
    if isinstance(x, Tensor):
        return x
    high, low = x
    return high if low is None else OctTensor(high, low)


def assert_equal(got: Tensor | OctTensor, want: Tensor | OctTensor) -> None:
    for y, wanted in zip(*(parts(as_value(value)) for value in (got, want)), strict=True):
        torch.testing.assert_close(y, wanted)


def as_pictures(x: Tensor) -> Tensor:
    """Images in channels-last memory, or the frames of videos."""
    if x.ndim == 5:
        return conv3d_as_2d.frames(x)
    return x.contiguous(memory_format=torch.channels_last)


@both_dims
@all_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_conv_norm_sum_relu(case: Case, ndim: int, dtype: torch.dtype) -> None:
    """float32 is what oneDNN does, float64 what torch does everywhere else."""
    torch.manual_seed(0)
    conv = case.build(ndim).to(dtype)
    norm = norm_of(case.c_out, ndim).to(dtype)
    if conv.is_depthwise and not conv.is_plain:
        with pytest.raises(ValueError, match="these channels cannot be fused"):
            FusedConv(conv, norm)
        return
    for size in ((9, 12), (8, 6), (9, 12)):  # the packed weight follows the size of the input
        x = as_value(per_frequency(lambda t: t.to(dtype), make_input(case.c_in, ndim, size)))
        y = as_value(norm(conv(x)))
        shortcut = per_frequency(torch.randn_like, y)
        frames = x.shape[2] if ndim == 3 else 1
        pictures = per_frequency(as_pictures, x)
        for relu in (False, True):
            act = torch.relu if relu else torch.clone
            fused = FusedConv(conv, norm, relu)
            want = per_frequency(as_pictures, per_frequency(act, y))
            assert_equal(fused(pictures, frames), want)
            into = per_frequency(lambda t: as_pictures(t).clone(), shortcut)
            got = fused(pictures, frames, into)
            want = per_frequency(
                as_pictures, per_frequency(act, per_frequency(torch.add, y, shortcut))
            )
            assert_equal(got, want)


def test_the_sum_is_in_the_memory_of_the_shortcut() -> None:
    conv = OctConv2d(16, 32, 1, alpha_in=0.25, alpha_out=0.25)
    cl = torch.channels_last
    x = OctTensor(torch.randn(1, 12, 8, 8), torch.randn(1, 4, 4, 4)).contiguous(memory_format=cl)
    into = OctTensor(torch.randn(1, 24, 8, 8), torch.randn(1, 8, 4, 4)).contiguous(memory_format=cl)
    y = FusedConv(conv, relu=True)(x, shortcut=into)
    assert [t.data_ptr() for t in y] == [t.data_ptr() for t in into]


def test_the_pooled_map_is_computed_once() -> None:
    """All branches of a block take it from the value, until what was pooled is overwritten."""
    conv = OctConv2d((6, 2), (4, 4), 1)
    x = OctTensor(torch.randn(1, 6, 6, 6), torch.randn(1, 2, 3, 3))
    y_h, y_l = conv(x)
    x.pooled().zero_()
    for layer in (conv, FusedConv(conv)):
        other_h, other_l = layer(x)
        torch.testing.assert_close(other_h, y_h)
        assert not torch.allclose(other_l, y_l)
    x.relu_()
    for y, wanted in zip(conv(x), conv(OctTensor(x.high, x.low)), strict=True):
        assert torch.equal(y, wanted)


def test_folded_without_affine_parameters() -> None:
    """Batch norm without weight and bias, convolution with and without."""
    norm = nn.BatchNorm2d(4, affine=False).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 5, 5)
    for bias in (True, False):
        conv = nn.Conv2d(3, 4, 3, bias=bias)
        weight, shift = folded(conv, norm)
        torch.testing.assert_close(torch.conv2d(x, weight, shift), norm(conv(x)))
