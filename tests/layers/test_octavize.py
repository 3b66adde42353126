"""A network that knows nothing of octaves becomes one, and stays what it is otherwise."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import (
    BatchNorm2d,
    OctConv2d,
    OctConv3d,
    OctTensor,
    Placement,
    octavize,
    strict,
)
from octvideo.layers.conv3d_as_2d import Conv2d, Conv3d


class Block(nn.Module):
    """Plain torch, the shortcut last or first in the sum."""

    def __init__(self, dim_in: int, dim_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim_out)
        self.conv2 = nn.Conv2d(dim_out, dim_out, 3, 1, 1, groups=2)
        self.bn2 = nn.BatchNorm2d(dim_out)
        self.down = None
        if stride > 1 or dim_in != dim_out:
            self.down = nn.Conv2d(dim_in, dim_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y = y + (x if self.down is None else self.down(x))
        return F.relu(y)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.a = nn.Sequential(Block(8, 8), Block(8, 16, 2))
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.b = Block(16, 16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.depthwise(self.a(self.stem(x))))
        return self.fc(x.mean((2, 3)))


EXAMPLE = torch.zeros(1, 3, 16, 16)


def in_a(name: str) -> bool:
    return name.startswith("a.")


def octave_net(alpha: float = 0.25) -> Net:
    torch.manual_seed(0)
    net = Net()
    octavize(net, Placement(in_a, alpha), EXAMPLE)
    return net


def test_which_layers_are_swapped() -> None:
    """What makes low channels, what gets some, and a depthwise convolution between."""
    net = octave_net()
    channels = {
        name: (tuple(m.channels_in), tuple(m.channels_out))
        for name, m in net.named_modules()
        if isinstance(m, OctConv2d)
    }
    assert channels == {
        "a.0.conv1": ((8, 0), (6, 2)),
        "a.0.conv2": ((6, 2), (6, 2)),
        "a.1.conv1": ((6, 2), (12, 4)),
        "a.1.conv2": ((12, 4), (12, 4)),
        "a.1.down": ((6, 2), (12, 4)),
        "depthwise": ((12, 4), (12, 4)),
        "b.conv1": ((12, 4), (16, 0)),
    }
    assert type(net.stem) is type(net.b.conv2) is nn.Conv2d
    assert isinstance(net.a[0].bn1, BatchNorm2d)


def test_parameters_stay_the_same_objects() -> None:
    torch.manual_seed(0)
    net = Net()
    before = dict(net.named_parameters())
    keys = list(net.state_dict())
    state = copy.deepcopy(net.state_dict())
    octavize(net, Placement(in_a, 0.25), EXAMPLE)
    assert list(net.state_dict()) == keys
    assert all(parameter is before[name] for name, parameter in net.named_parameters())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert net.training
    assert not any(module._forward_pre_hooks for module in net.modules())
    Net().load_state_dict(net.state_dict(), strict=True)


def test_without_alpha_nothing_happens() -> None:
    torch.manual_seed(0)
    net = Net()
    kinds = [type(module) for module in net.modules()]
    assert octavize(net, Placement(in_a, 0.0), EXAMPLE) is net
    assert [type(module) for module in net.modules()] == kinds


def test_against_explicit_layers() -> None:
    """The first block by hand, from OctConv2d with the same weights and plain pairs."""
    net = octave_net().eval()
    block = net.a[0]
    conv1 = OctConv2d(8, (6, 2), 3, padding=1, bias=False)
    conv2 = OctConv2d((6, 2), (6, 2), 3, padding=1, groups=2)
    conv1.load_state_dict(block.conv1.state_dict())
    conv2.load_state_dict(block.conv2.state_dict())
    x = torch.randn(2, 8, 8, 8)
    scale = (1 + 1e-5) ** -0.5
    y = [(part * scale).relu() for part in conv1(x)]
    y_h, y_l = (part * scale for part in conv2(tuple(y)))
    pooled = F.avg_pool2d(x[:, :2], 2)
    with strict(), torch.no_grad():
        got = block(x)
    torch.testing.assert_close(got.high, (y_h + x[:, 2:]).relu())
    torch.testing.assert_close(got.low, (y_l + pooled).relu())


def test_gradients_copies_and_compilation() -> None:
    net = octave_net()
    x = torch.randn(2, 3, 16, 16)
    with strict():
        want = net(x)
    want.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(twin(x), want)


def test_a_value_goes_into_an_octave_layer_of_the_user() -> None:
    layer, x = (
        OctConv2d((6, 2), (3, 1), 1),
        OctTensor(torch.randn(1, 6, 4, 4), torch.randn(1, 2, 2, 2)),
    )
    y = layer(x)
    assert isinstance(y, OctTensor)
    for got, want in zip(y, layer((x.high, x.low)), strict=True):
        assert torch.equal(got, want)


def test_a_layer_that_cannot_be_octave_is_named() -> None:
    net = nn.Sequential(Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3))
    with pytest.raises(ValueError, match=r"^1 cannot be octave: .*padding must be \(1, 1\)"):
        octavize(net, Placement(lambda name: name == "0", 0.25), EXAMPLE)


def test_vanilla_3d_convolutions_run_as_ours() -> None:
    """The layers that stay vanilla take the memory format of their octave neighbours."""
    model = nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.Conv3d(8, 8, 1), nn.Conv3d(8, 8, (3, 1, 1))
    )
    x = torch.randn(1, 3, 4, 8, 8)
    want = model[0](x)
    octavize(model, Placement(lambda name: name == "1", 0.25), x)
    assert [type(layer) for layer in model] == [Conv3d, OctConv3d, OctConv3d]
    torch.testing.assert_close(model[0](x), want)
