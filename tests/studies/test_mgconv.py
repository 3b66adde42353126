"""Multigrid convolution against its formula in numpy, its cost, and the layers it stands in for."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from octvideo.layers import OctConv2d
from studies.mgconv import MGConv2d


def conv(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """A 3x3 or 1x1 convolution of one image (C, H, W), as a sum over the kernel's places."""
    k = w.shape[-1]
    x = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2))
    h, width = x.shape[1] - k + 1, x.shape[2] - k + 1
    xs, ws = np.split(x, groups), np.split(w, groups)
    out = [
        sum(
            np.einsum("oc,chw->ohw", wg[:, :, i, j], xg[:, i : i + h, j : j + width])
            for i in range(k)
            for j in range(k)
        )
        for xg, wg in zip(xs, ws, strict=True)
    ]
    return np.concatenate(out)


def max_pool(x: np.ndarray) -> np.ndarray:
    c, h, w = x.shape
    x = np.pad(x, ((0, 0), (0, h % 2), (0, w % 2)), constant_values=-np.inf)
    return x.reshape(c, (h + 1) // 2, 2, (w + 1) // 2, 2).max((2, 4))


def joined(low: np.ndarray, high: np.ndarray, groups: int) -> np.ndarray:
    parts = zip(np.split(low, groups), np.split(high, groups), strict=True)
    return np.concatenate([part for pair in parts for part in pair])


def formula(layer: MGConv2d, x_h: np.ndarray, x_l: np.ndarray | None, groups: int):
    w, low_out = layer.weight.detach().numpy(), layer.channels_out.low
    if layer.stride[0] == 2:
        x_h, x_l = max_pool(x_h), None if x_l is None else max_pool(x_l)
    high, low = x_h, max_pool(x_h)
    if x_l is not None:
        up = x_l.repeat(2, 1).repeat(2, 2)[:, : x_h.shape[1], : x_h.shape[2]]
        high, low = joined(up, x_h, groups), joined(x_l, low, groups)
    bias = layer.bias.detach().numpy()[:, None, None]
    y_h = conv(high, w[low_out:], groups) + bias[low_out:]
    return y_h, conv(low, w[:low_out], groups) + bias[:low_out] if low_out else None


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 2)])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups"), [(3, 1, 1), (1, 1, 1), (3, 2, 1), (3, 1, 2)]
)
@pytest.mark.parametrize(
    ("c_in", "c_out"), [((6, 2), (4, 4)), ((6, 0), (4, 2)), ((6, 2), (4, 0))], ids=str
)
def test_formula(c_in, c_out, kernel, stride, groups, size):
    torch.manual_seed(0)
    layer = MGConv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups).double()
    x_h = torch.randn(2, c_in[0], *size, dtype=torch.double)
    half = [(n + 1) // 2 for n in size]
    x_l = torch.randn(2, c_in[1], *half, dtype=torch.double) if c_in[1] else None
    y = layer(x_h if x_l is None else (x_h, x_l))
    y_h, y_l = (y, None) if isinstance(y, Tensor) else y
    for i in range(2):
        want = formula(layer, x_h[i].numpy(), None if x_l is None else x_l[i].numpy(), groups)
        np.testing.assert_allclose(y_h[i].detach().numpy(), want[0], atol=1e-12)
        if y_l is not None:
            np.testing.assert_allclose(y_l[i].detach().numpy(), want[1], atol=1e-12)


@pytest.mark.parametrize("alpha", [0.125, 0.25, 0.5, 0.75])
def test_cost(alpha):
    """1 - 3/4 alpha of the vanilla layer, where an octave one has 1 - 3/4 alpha (2 - alpha)."""
    shares = {MGConv2d: 1 - 0.75 * alpha, OctConv2d: 1 - 0.75 * alpha * (2 - alpha)}
    low = int(64 * alpha)
    x = torch.zeros(1, 64 - low, 16, 16), torch.zeros(1, low, 8, 8)
    for kind, share in shares.items():
        layer = kind(64, 64, 3, padding=1, bias=False, alpha_in=alpha, alpha_out=alpha)
        with FlopCounterMode(display=False) as counter:
            layer(x)
        assert counter.get_total_flops() == 2 * share * 64 * 64 * 9 * 16 * 16
        assert layer.weight.shape == (64, 64, 3, 3)


def test_a_constant_picture_is_that_of_the_octave_convolution():
    """Neither pool nor place of upsampling matters to a 1x1 convolution of constants."""
    mg, octave = (kind((6, 2), (4, 4), 1) for kind in (MGConv2d, OctConv2d))
    mg.load_state_dict(octave.state_dict())
    x = torch.rand(2, 6, 1, 1).expand(2, 6, 7, 5), torch.rand(2, 2, 1, 1).expand(2, 2, 4, 3)
    for y, want in zip(mg(x), octave(x), strict=True):
        torch.testing.assert_close(y, want)


def test_depthwise_and_plain():
    depthwise = MGConv2d((6, 2), (6, 2), 3, 2, 1, groups=8)
    y_h, y_l = depthwise((torch.rand(1, 6, 8, 8), torch.rand(1, 2, 4, 4)))
    assert (y_h.shape, y_l.shape) == ((1, 6, 4, 4), (1, 2, 2, 2))
    plain, want = MGConv2d(4, 6, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
    want.load_state_dict(plain.state_dict())
    x = torch.rand(1, 4, 8, 8)
    assert torch.equal(plain(x), want(x))


def test_gradients_reach_all_four_paths():
    layer = MGConv2d((6, 2), (4, 4), 3, padding=1)
    y_h, y_l = layer((torch.randn(1, 6, 8, 8), torch.randn(1, 2, 4, 4)))
    (y_h.square().sum() + y_l.square().sum()).backward()
    layer.weight.data = layer.weight.grad
    assert layer.kernels().keys() == {"h2h", "h2l", "l2h", "l2l"}
    assert all(kernel.all() for kernel in layer.kernels().values())
