"""Splitting channels, pooling, merging; and every wrong use is a ValueError that says so."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from octvideo.layers import (
    Channels,
    OctTensor,
    convert,
    merge,
    per_frequency,
    pool,
    split_channels,
    upsample,
)
from support.eq4 import (
    CASES,
    LAYERS,
    Case,
    both_dims,
    half,
    make_input,
    pool_reference,
    upsample_reference,
)

# Helpers


@pytest.mark.parametrize(
    ("channels", "alpha", "divisor", "want"),
    [
        (64, 0.0, 1, (64, 0)),
        (64, 0.1, 1, (58, 6)),
        (256, 0.1, 1, (231, 25)),
        (64, 0.125, 1, (56, 8)),
        (64, 0.5, 1, (32, 32)),
        (7, 0.1, 1, (7, 0)),
        (64, 0.1, 8, (56, 8)),  # 6 is nearer to 8
        (256, 0.1, 8, (232, 24)),  # 25 is nearer to 24
        (32, 0.1, 8, (32, 0)),  # 3 is nearer to 0
        (64, 0.07, 8, (56, 8)),  # 4: half way, up
        (8, 0.9, 8, (8, 0)),  # 7 is nearer to 8, which would leave no high channel
        (16, 0.9, 8, (8, 8)),
    ],
)
def test_split_channels(channels: int, alpha: float, divisor: int, want) -> None:
    got = split_channels(channels, alpha, divisor)
    assert isinstance(got, Channels)
    assert got == want
    assert got.total == channels


@given(st.integers(1, 4096), st.floats(0, 1, exclude_max=True), st.integers(1, 64))
def test_split_keeps_the_total_and_a_high_channel(channels, alpha, divisor) -> None:
    high, low = split_channels(channels, alpha, divisor)
    assert high + low == channels
    assert high >= 1
    assert low >= 0
    assert low % divisor == 0
    assert split_channels(channels, alpha).low == int(alpha * channels)


@both_dims
@pytest.mark.parametrize("size", [(5, 6), (7, 7), (8, 4), (31, 2)])
def test_pool_and_upsample(size: tuple[int, int], ndim: int) -> None:
    x = make_input((3, 0), ndim, size)
    torch.testing.assert_close(pool(x), pool_reference(x))
    low = make_input((3, 0), ndim, (half(size[0]), half(size[1])))
    assert torch.equal(upsample(low, x.shape[-2:]), upsample_reference(low, x))


@both_dims
def test_one_pixel(ndim: int) -> None:
    """Maps of one pixel, which F.avg_pool3d refuses, pass through unchanged."""
    x = make_input((3, 0), ndim, (1, 1))
    assert torch.equal(pool(x), x)
    for stride in (1, 2):
        y_h, y_l = Case((8, 0), (4, 6), stride=stride).build(ndim)(make_input((8, 0), ndim, (1, 1)))
        assert y_h.shape[-2:] == y_l.shape[-2:] == (1, 1)


def test_upsample_repeats_pixels_at_every_size() -> None:
    for n in range(1, 700):
        row = torch.arange(half(n), dtype=torch.float).view(1, 1, 1, -1)
        assert torch.equal(upsample(row, torch.Size((1, n))), row.repeat_interleave(2, -1)[..., :n])


@both_dims
def test_merge_and_convert(ndim: int) -> None:
    x_h, x_l = x = make_input((5, 3), ndim, (7, 10))
    one = merge(x)
    assert torch.equal(one[:, :3], upsample_reference(x_l, x_h))
    assert torch.equal(one[:, 3:], x_h)
    assert torch.equal(convert(x, 0), one)
    assert merge(one) is one
    assert convert(one, 0) is one
    value = OctTensor(x_h, x_l)
    assert convert(value, 3) is value
    back_h, back_l = convert(one, 3)
    assert torch.equal(back_h, x_h)
    torch.testing.assert_close(back_l, pool_reference(one[:, :3]))


def test_merge_and_convert_are_inverse_at_even_sizes() -> None:
    x = make_input((5, 3), 3, (6, 10))
    torch.testing.assert_close(tuple(convert(merge(x), 3)), x)


def test_per_frequency() -> None:
    x, y = make_input((5, 3), 2), make_input((5, 3), 2)
    high, low = per_frequency(torch.add, x, y)
    assert torch.equal(high, x[0] + y[0])
    assert torch.equal(low, x[1] + y[1])
    assert torch.equal(per_frequency(torch.relu, x[0]), x[0].relu())


# Wrong use


@both_dims
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha_in": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ({"alpha_out": -0.5}, r"alpha must be in \[0, 1\), got -0.5"),
        ({"alpha_in": float("nan")}, "alpha must be in"),
        ({"in_channels": 0}, "channel count must be at least 1, got 0"),
        ({"in_channels": (5, 3), "alpha_in": 0.5}, r"\(5, 3\) are split already"),
        ({"in_channels": (0, 8)}, "leave no high channels"),
        ({"kernel_size": (3,) * 5}, "kernel_size must be one number or"),
        ({"stride": (1,)}, "stride must be one number or"),
        ({"groups": 3}, "not divisible by groups = 3"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"alpha_in": 0.25, "groups": 4}, r"in channels \(6, 2\).* not divisible by groups = 4"),
        ({"alpha_out": 0.25, "groups": 4}, r"out channels \(6, 2\).* not divisible by groups = 4"),
        # of an image network's first layer no alpha_in can be right: the advice is about alpha_out
        ({"alpha_out": 0.5, "groups": 8}, "cannot split them: set alpha_out=0 here, and split in"),
        (
            {"in_channels": 3, "groups": 3, "alpha_out": 0.5, "out_channels": 64},
            "cannot split them: set alpha_out=0 here",
        ),
        ({"alpha_in": 0.5, "groups": 8}, "cannot join them: set alpha_out=alpha_in here"),
        (
            {"alpha_in": 0.5, "alpha_out": 0.5, "groups": 8, "out_channels": 12},
            "out_channels a multiple of in_channels",
        ),
        (
            {"alpha_in": 0.5, "padding": 0},
            r"spatial size: .* padding must be \(1, 1\), got \(0, 0\)",
        ),
        ({"alpha_out": 0.5, "kernel_size": 2}, r"padding must be 'same', got \(1, 1\)"),
        ({"alpha_in": 0.5, "dilation": 2}, r"padding must be \(2, 2\), got \(1, 1\)"),
        ({"alpha_in": 0.5, "stride": 3}, "spatial stride must be 1 or 2, got"),
    ],
)
def test_wrong_arguments(options: dict, message: str, ndim: int) -> None:
    arguments = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1, **options}
    with pytest.raises(ValueError, match=message):
        LAYERS[ndim](**arguments)


@pytest.mark.parametrize("arguments", [(0, 0.5, 1), (8, 1.0, 1), (8, 1.5, 1), (8, -0.1, 1)])
def test_wrong_split(arguments) -> None:
    with pytest.raises(ValueError, match="must be"):
        split_channels(*arguments)
    with pytest.raises(ValueError, match="divisor must be at least 1, got 0"):
        split_channels(64, 0.5, 0)


@both_dims
def test_wrong_inputs(ndim: int) -> None:
    pair, single = CASES["pair"].build(ndim), CASES["first"].build(ndim)
    x_h, x_l = make_input((5, 3), ndim)
    wrong: list[tuple[nn.Module, object, str]] = [
        (pair, x_h, r"5 high and 3 low channels takes a pair \(x_h, x_l\), got a tensor of shape"),
        (pair, (x_h,), "takes a pair .* got a tuple of 1"),
        (pair, None, "takes a pair .* got a NoneType"),
        (pair, (x_h, None), "expects 3 low channels .* got a NoneType"),
        (pair, (x_l, x_h), "expects 5 high channels .* got a tensor of shape"),
        (pair, (x_h, x_h[:, :3]), r"the low part of .* must have .* in time and space"),
        (pair, (x_h[..., 0], x_l[..., 0]), "expects 5 high channels in a"),
        (single, (x_h, x_l), "without low channels takes one tensor, got a tuple of 2"),
        (single, x_h, "expects 8 high channels in a .* got a tensor of shape"),
    ]
    if ndim == 3:
        wrong.append((pair, (x_h, x_l[:, :, :-1]), "and be .* in time and space"))
    for layer, x, message in wrong:
        with pytest.raises(ValueError, match=message):
            layer(x)
