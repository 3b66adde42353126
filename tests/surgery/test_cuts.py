"""Where channels are cut and joined, each part has low channels of its own: nothing is merged."""

import pytest
import torch
from torch import nn

from octvideo import octavize
from octvideo.layers import OctConv2d

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def conv(width_in: int, width_out: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, padding=1)


class Network(nn.Module):
    def __init__(self, **convs: nn.Conv2d) -> None:
        super().__init__()
        self.stem, self.last = conv(3, 32), conv(32, 16)
        for name, layer in convs.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.last(self.body(self.stem(x).relu()))


class Hierarchy(Network):
    """Res2Net: each piece is added to what became of the one before."""

    def __init__(self) -> None:
        super().__init__(wide=conv(32, 32), a=conv(8, 8), b=conv(8, 8), c=conv(8, 8))

    def body(self, x):
        first, *pieces = self.wide(x).relu().split(8, dim=1)
        done = [first]
        for piece, layer in zip(pieces, (self.a, self.b, self.c), strict=True):
            done.append(layer(piece + done[-1]))
        return torch.cat(done, 1)


class Ghost(Network):
    """GhostNet: a shortcut is added to a concatenation."""

    def __init__(self) -> None:
        super().__init__(few=conv(32, 16), cheap=conv(16, 16), shortcut=conv(32, 32))

    def body(self, x):
        few = self.few(x)
        y = torch.cat([few, self.cheap(few)], 1)
        y += self.shortcut(x)
        return y


class Growing(Network):
    """ReXNet: a shortcut is added to the first channels, where the shortcut was made likewise."""

    def __init__(self) -> None:
        super().__init__(one=conv(32, 16), two=conv(16, 24), three=conv(24, 32))

    def body(self, x):
        x = self.one(x)
        for layer in (self.two, self.three):
            y, old = layer(x), x.shape[1]
            x = torch.cat([y[:, :old] + x, y[:, old:]], 1)
        return x


class DualPath(Network):
    """DPN: one part of the channels is added, the other is joined."""

    def __init__(self) -> None:
        super().__init__(one=conv(32, 24), two=conv(24, 24), three=conv(32, 32))

    def body(self, x):
        y = self.one(x)
        z = self.two(y)
        return self.three(torch.cat([y[:, :16] + z[:, :16], y[:, 16:], z[:, 16:]], 1))


@pytest.mark.parametrize("kind", [Hierarchy, Ghost, Growing, DualPath])
@pytest.mark.parametrize("alpha", [0.125, 0.25, 0.5])
def test_nothing_is_merged(kind: type[Network], alpha: float) -> None:
    torch.manual_seed(0)
    model = kind()
    octave = octavize(model, alpha, example=X, placement="end", strict=True)
    layers = [m for m in octave.modules() if isinstance(m, OctConv2d)]
    assert len(layers) > len([m for m in model.modules() if isinstance(m, nn.Conv2d)]) - 2
    assert_same_on_constant_images(model, octave)


def assert_same_on_constant_images(model: nn.Module, octave: nn.Module) -> None:
    """There an octave loses nothing, so that each weight has met the channels it was made for."""
    x = torch.randn(2, 3, 1, 1).expand(2, 3, 16, 16)
    for network in (model, octave):
        for module in network.modules():
            if hasattr(module, "padding_mode"):
                module.padding_mode = "replicate"
    with torch.no_grad():
        torch.testing.assert_close(octave(x), model(x), atol=1e-4, rtol=1e-4)
