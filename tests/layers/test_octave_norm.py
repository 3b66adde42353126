"""Octave batch norm against two torch.nn.BatchNorm, one for each frequency."""

import pytest
import torch
from torch import Tensor, nn

from octvideo.layers import OctBatchNorm2d, OctBatchNorm3d

LAYERS = {2: OctBatchNorm2d, 3: OctBatchNorm3d}
PLAIN = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
HIGH, LOW = 5, 3

both_dims = pytest.mark.parametrize("ndim", [2, 3])


def make_input(ndim: int, n: int = 2) -> tuple[Tensor, Tensor]:
    frames = (4,) if ndim == 3 else ()
    return 2 * torch.randn(n, HIGH, *frames, 7, 6) + 1, torch.randn(n, LOW, *frames, 4, 3) - 1


def make_layers(ndim: int, **options) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The octave layer, and two plain ones that hold its values [L | H]."""
    layer = LAYERS[ndim]((HIGH, LOW), **options)
    high, low = PLAIN[ndim](HIGH, **options), PLAIN[ndim](LOW, **options)
    with torch.no_grad():
        for key, value in layer.state_dict().items():
            if value.ndim:
                value.copy_(torch.rand(HIGH + LOW) + 0.5)
                low.state_dict()[key].copy_(value[:LOW])
                high.state_dict()[key].copy_(value[LOW:])
    return layer, high, low


def assert_same_state(layer: nn.Module, high: nn.Module, low: nn.Module) -> None:
    for key, value in layer.state_dict().items():
        parts = low.state_dict()[key], high.state_dict()[key]
        if value.ndim:
            torch.testing.assert_close(value, torch.cat(parts))
        else:
            assert value == parts[0] == parts[1], key


OPTIONS = [
    {},
    {"momentum": None},
    {"momentum": 0.3, "eps": 1e-3},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


@both_dims
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_two_plain_layers(options: dict, ndim: int) -> None:
    layer, high, low = make_layers(ndim, **options)
    for _ in range(3):
        x_h, x_l = make_input(ndim)
        torch.testing.assert_close(layer((x_h, x_l)), (high(x_h), low(x_l)))
        assert_same_state(layer, high, low)
    for module in (layer, high, low):
        module.eval()
    x_h, x_l = make_input(ndim)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    torch.testing.assert_close(layer((x_h, x_l)), (high(x_h), low(x_l)))
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), f"evaluation changed {key}"


@both_dims
def test_gradients_equal_those_of_two_plain_layers(ndim: int) -> None:
    layer, high, low = make_layers(ndim)
    x_h, x_l = (part.requires_grad_() for part in make_input(ndim))
    grads = []
    for y_h, y_l in (layer((x_h, x_l)), (high(x_h), low(x_l))):
        loss = y_h.pow(3).mean() + y_l.pow(3).mean()
        grads.append(torch.autograd.grad(loss, (x_h, x_l), retain_graph=True))
        loss.backward()
    torch.testing.assert_close(grads[0], grads[1])
    for name in ("weight", "bias"):
        want = torch.cat([getattr(low, name).grad, getattr(high, name).grad])
        torch.testing.assert_close(getattr(layer, name).grad, want)


@both_dims
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_without_low_channels_it_is_the_plain_layer(options: dict, ndim: int) -> None:
    layer, plain = LAYERS[ndim](HIGH, **options), PLAIN[ndim](HIGH, **options)
    for train in (True, True, False):
        layer.train(train)
        plain.train(train)
        x, _ = make_input(ndim)
        assert torch.equal(layer(x), plain(x))
        assert layer.state_dict().keys() == plain.state_dict().keys()
        for key, value in plain.state_dict().items():
            assert torch.equal(layer.state_dict()[key], value)


@both_dims
def test_counts_a_batch_once(ndim: int) -> None:
    layer, _, _ = make_layers(ndim)
    for n in range(1, 4):
        layer(make_input(ndim))
        assert layer.num_batches_tracked == n
    layer.eval()(make_input(ndim))
    assert layer.num_batches_tracked == 3


def test_state_dict_is_that_of_the_vanilla_layer() -> None:
    layer, plain = OctBatchNorm3d(64, alpha=0.1), nn.BatchNorm3d(64)
    assert layer.channels == (58, 6)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    layer.load_state_dict(plain.state_dict(), strict=True)


def test_evaluation_follows_the_frozen_statistics() -> None:
    """gamma (x - mean) / sqrt(var + eps) + beta, with the slices [L | H] cut by hand."""
    layer, _, _ = make_layers(2, eps=0.01)
    x_h, x_l = make_input(2)
    y_h, y_l = layer.eval()((x_h, x_l))
    state = layer.state_dict()
    for x, y, part in ((x_h, y_h, slice(LOW, None)), (x_l, y_l, slice(0, LOW))):
        gamma, beta, mean, var = (
            state[key][part].view(1, -1, 1, 1)
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        torch.testing.assert_close(y, gamma * (x - mean) / (var + 0.01).sqrt() + beta)


@both_dims
def test_channels_last_and_meta(ndim: int) -> None:
    layer, _, _ = make_layers(ndim)
    layer.eval()
    memory_format = torch.channels_last if ndim == 2 else torch.channels_last_3d
    x = make_input(ndim)
    y = layer(tuple(part.contiguous(memory_format=memory_format) for part in x))
    torch.testing.assert_close(y, layer(x))
    for train in (False, True):
        y_h, y_l = layer.train(train).to("meta")(tuple(part.to("meta") for part in x))
        assert y_h.shape == x[0].shape
        assert y_l.shape == x[1].shape


@both_dims
def test_wrong_use(ndim: int) -> None:
    layer, _, _ = make_layers(ndim)
    x_h, x_l = make_input(ndim)
    for x, message in (
        (x_h, "5 high and 3 low channels takes a pair .* got a tensor of shape"),
        ((x_l, x_h), "expects 5 high channels .* got a tensor of shape"),
        ((x_h, x_h[:, :LOW]), "the low part of .* must have"),
        ((x_h[0], x_l[0]), "expects 5 high channels in a"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(x)
    with pytest.raises(ValueError, match="takes one tensor, got a tuple of 2"):
        LAYERS[ndim](HIGH)((x_h, x_l))
    with pytest.raises(ValueError, match="split already"):
        LAYERS[ndim]((HIGH, LOW), alpha=0.5)
    with pytest.raises(ValueError, match="alpha must be in"):
        LAYERS[ndim](HIGH, alpha=2)
    assert layer.num_batches_tracked == 0, "a refused batch is not counted"
