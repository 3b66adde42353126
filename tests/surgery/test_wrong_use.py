"""What ``octavize`` cannot do is an error or a line of the report, never another result."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from octvideo import octavize, summary
from octvideo.layers import OctConv2d

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def conv(width_in: int = 16, width_out: int = 16) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, padding=1)


class Statement(nn.Module):
    """Adds an octave value to a plain one, or the reverse, and does not take the result."""

    def __init__(self, into_plain: bool) -> None:
        super().__init__()
        self.first, self.octave, self.last = conv(3), conv(), conv()
        self.into_plain = into_plain

    def forward(self, x):
        plain = self.first(x)
        octave = self.octave(plain)
        total, other = (plain, octave) if self.into_plain else (octave, plain)
        total.add_(other)
        return self.last(total)


@pytest.mark.parametrize("into_plain", [True, False])
def test_statement_in_place(into_plain: bool) -> None:
    model = Statement(into_plain)
    octave = octavize(model, 0.25, example=X[:1], placement="octave")
    with torch.no_grad():
        plain = octave.first(X)
        other = octave.octave(plain)
        total = plain + other.merged() if into_plain else other + plain
        torch.testing.assert_close(octave(X), getattr(y := octave.last(total), "high", y))
    merges = [merge.function for merge in summary(octave, X[:1]).merges]
    assert merges == (["add_"] if into_plain else [])


@pytest.mark.parametrize("alpha", [-0.1, 1.0, 1.5])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=str(alpha)):
        octavize(nn.Sequential(conv(3), conv(), conv()), alpha, example=X)


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (3, 16), (1, 3, 1)])
def test_example_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="example"):
        octavize(nn.Sequential(conv(3), conv(), conv()), example=torch.zeros(shape))


def test_octave_already() -> None:
    octave = octavize(nn.Sequential(conv(3), conv(), conv()), example=X)
    with pytest.raises(ValueError, match="already"):
        octavize(octave, example=X)


@pytest.mark.parametrize("change", ["weight_norm", "spectral_norm", "hook"])
def test_changed_convolutions_stay(change: str) -> None:
    model = nn.Sequential(conv(3), conv(), conv(), conv())
    if change == "hook":
        model[1].register_forward_hook(lambda module, inputs, output: output * 2)
    else:
        getattr(nn.utils.parametrizations, change)(model[1])
    model.eval()
    octave = octavize(model, example=X[:1], placement="*")
    assert not isinstance(octave[1], OctConv2d)
    assert isinstance(octave[2], OctConv2d)
    rows = {row.name: row.reason for row in summary(octave, X[:1]).rows}
    assert rows["1"]
    with torch.no_grad():
        torch.testing.assert_close(
            octave[1](octave[0](X).merged()), model[1](octave[0](X).merged())
        )


class FunctionalNorm(nn.Module):
    """A batch norm by function, with parameters and statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3), conv()
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        norm = self.norm
        statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
        return self.b(F.batch_norm(self.a(x), *statistics, self.training, 0.1, 1e-5))


@pytest.mark.parametrize("training", [True, False])
def test_functional_batch_norm(training: bool) -> None:
    model = FunctionalNorm()
    octave = octavize(model, 0.25, example=X[:1], placement="a").train(training)
    value = octave.a(X)
    means = torch.cat([part.mean((0, 2, 3)) for part in (value.low, value.high)])
    octave(X)
    want = 0.1 * means if training else torch.zeros(16)
    torch.testing.assert_close(octave.norm.running_mean, want)


class Path(nn.Module):
    """Its path depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3), conv(), conv()

    def forward(self, x):
        y = self.b(self.a(x))
        return self.c(y) if x.mean() > 0 else self.c(F.pixel_unshuffle(F.pixel_shuffle(y, 2), 2))


def test_path_that_the_example_does_not_take() -> None:
    octave = octavize(Path(), 0.25, example=X[:1].abs(), placement=["a", "b"])
    with torch.no_grad():
        got = octave(-X.abs()), octave.c(octave.b(octave.a(-X.abs())).merged())
    torch.testing.assert_close(*got)


def test_weights_shared_with_a_vanilla_place() -> None:
    """One weight in two layers stays one."""
    model = nn.Sequential(conv(3), conv(), conv(), conv())
    model[2].weight = model[1].weight
    octave = octavize(model, 0.25, example=X[:1], placement="1")
    assert octave[1].weight is octave[2].weight
    octave(X).sum().backward()
    assert octave[1].weight.grad is not None


class FunctionalConv(nn.Module):
    """A convolution by function takes what another one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.octave, self.last = conv(3), conv(), conv()

    def forward(self, x):
        return self.last(F.conv2d(self.octave(self.first(x)), self.last.weight))


def test_functional_convolutions_are_counted_and_named() -> None:
    octave = octavize(FunctionalConv(), 0.25, example=X[:1], placement="octave")
    report = summary(octave, X[:1])
    [row] = [row for row in report.rows if "function" in row.reason]
    assert row.macs == row.vanilla_macs == 14 * 14 * 16 * 16 * 9
    assert [(merge.function, merge.module) for merge in report.merges] == [("conv2d", "")]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class WithFunction(nn.Module):
    """A function with a gradient of its own would lose it for an octave value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.octave, self.last = conv(3), conv(), conv()

    def forward(self, x):
        return self.last(Doubled.apply(self.octave(self.first(x))))


def test_function_with_a_gradient_of_its_own() -> None:
    before = torch.autograd.Function.__dict__["apply"]
    with pytest.raises(ValueError, match="Doubled"):
        octavize(WithFunction(), 0.25, example=X, placement="octave")
    assert torch.autograd.Function.__dict__["apply"] is before
    spared = octavize(WithFunction(), 0.25, example=X, placement="end", exclude="octave")
    assert not any(isinstance(module, OctConv2d) for module in spared.modules())


class WritesIntoPart(nn.Module):
    """Changes part of a map by a view of it; the views of an octave value are copies."""

    def __init__(self, write: Callable[[torch.Tensor], object], is_used: bool) -> None:
        super().__init__()
        options = {"padding": 1, "padding_mode": "replicate"}
        widths = [(3, 16), (16, 16), (16, 16), (16, 16)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, **options) for a, b in widths)
        self.write, self.is_used = write, is_used

    def forward(self, x):
        for conv in self.convs[:2]:
            x = conv(x)
        y = self.write(x)
        return self.convs[3](self.convs[2](x if self.is_used else y))


@pytest.mark.parametrize(
    ("write", "is_used", "stays"),
    [
        (lambda x: x[:, :8].zero_(), True, True),
        (lambda x: x.flatten(2).add_(1), True, True),
        (lambda x: x.permute(0, 2, 3, 1).mul_(torch.arange(16.0)), True, True),
        (lambda x: x[:, ::2].relu_(), True, True),
        (lambda x: x.flatten(2).add_(1).view(-1, 16, 16, 16), False, False),
        (lambda x: torch.relu_(x.chunk(2, 1)[0]), True, False),
    ],
)
def test_what_is_written_into_a_part_is_not_lost(write, is_used: bool, stays: bool) -> None:
    """Maps that are the same everywhere are so at any resolution: octave and vanilla agree."""
    model = WritesIntoPart(write, is_used)
    octave = octavize(model, 0.25, example=X[:1], placement="end")
    flat = X[:, :, :1, :1].expand(X.shape)
    with torch.no_grad():
        torch.testing.assert_close(octave(flat), model(flat))
    rows = {row.name: row for row in summary(octave, X[:1]).rows}
    assert ("writes into a part" in rows["convs.1"].reason) == stays


class OfSamples(nn.Module):
    """What only a tensor can do, or is."""

    def __init__(self, act: Callable[[nn.Module, object], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.octave, self.other, self.last = conv(3), conv(), conv(), conv()
        self.act = act

    def forward(self, x):
        return self.last(self.act(self, self.octave(self.first(x))))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m, x: torch.stack([*x]), "samples"),
        (lambda m, x: sum(sample.mean() for sample in x) * x, "samples"),
        (lambda m, x: x if isinstance(x, torch.Tensor) else m.other(x), "isinstance"),
        (lambda m, x: m.other(x) if torch.is_tensor(x) else x, "isinstance"),
        (lambda m, x: x * float(x.detach().__array__().mean()), "octave values inside"),
    ],
)
def test_what_octave_values_cannot_do_is_said(act, message: str) -> None:
    model = OfSamples(act)
    with pytest.raises(ValueError, match=message) as caught:
        octavize(model, 0.25, example=X, placement="octave")
    assert "exclude=" in str(caught.value)
    octavize(model, 0.25, example=X, placement="end", exclude="octave")(X)
