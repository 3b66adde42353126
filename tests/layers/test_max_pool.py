"""Max pooling has the values and gradients of torch, and keeps less; so do the stems."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from octvideo.layers.max_pool import max_pool2d
from octvideo.models.blocks import Layers
from octvideo.models.pathways import Stem
from octvideo.models.resnet2d import Stem2d

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((8, 6), ((3, 3), (2, 2), (1, 1))),
        ((7, 5), ((3, 3), (2, 2), (1, 1))),
        ((9, 1), ((4, 1), (4, 1))),
        ((6, 7), ((3, 2), (1, 2))),
    ],
)
def test_values_and_gradients_are_those_of_torch(size, options, memory_format, dtype):
    x = torch.randn(2, 5, *size).round(decimals=1)  # with equal values in a window
    x = x.to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    ours, theirs = max_pool2d(x, *options), F.max_pool2d(x, *options)
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()
    gradient = torch.randn_like(ours)
    (got,), (want,) = (torch.autograd.grad(y, x, gradient) for y in (ours, theirs))
    assert torch.equal(got, want)


def test_a_part_of_a_tensor():
    base = torch.randn(2, 8, 10, 10, requires_grad=True)
    pools = [f(base[:, 1:6, 2:, ::2], (2, 2), (2, 2)) for f in (max_pool2d, F.max_pool2d)]
    got, want = (torch.autograd.grad(y.square().sum(), base)[0] for y in pools)
    assert torch.equal(got, want)


def test_the_map_is_not_kept():
    x = torch.randn(2, 5, 8, 8, requires_grad=True)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, id):
        y = max_pool2d(x, (2, 2), (2, 2))
    assert sizes == [2 * y.numel()]


STEMS = {
    "video": (
        Stem(3, 8, 3, 1e-5, 0.1),
        (2, 3, 4, 32, 32),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ),
    "image": (Stem2d(3, 8, Layers(2)), (2, 3, 32, 32), nn.MaxPool2d(3, 2, 1)),
}


@pytest.mark.parametrize("kind", STEMS)
def test_a_stem_keeps_the_output_of_its_convolution_alone(kind):
    """And is the convolution, batch norm, ReLU and pool of the tables, in this order."""
    stem, shape, pool = copy.deepcopy(STEMS[kind])
    plain = nn.Sequential(*copy.deepcopy([stem.conv, stem.bn]), nn.ReLU(), pool)
    x = torch.rand(shape)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        y = stem(x)
    assert sizes.count(4 * y.numel()) == 1
    want = plain(x)
    torch.testing.assert_close(y, want)
    gradient = torch.rand_like(y)
    ours = torch.autograd.grad(y, [*stem.parameters()], gradient)
    theirs = torch.autograd.grad(want, [*plain.parameters()], gradient)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(stem.bn.running_var, plain[1].running_var)
