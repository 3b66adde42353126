"""A trained network keeps what it knows: smooth channels, statistics, answers of the teacher."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo import calibrate, distill, octavize, summary
from octvideo.layers import OctConv2d, pool, upsample
from octvideo.surgery import low_channels
from octvideo.surgery.tuning import divergence

SMOOTH = [1, 2, 5]


class Net(nn.Module):
    """The convolution ``a`` makes three channels that vary slowly over the picture."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.a = nn.Conv2d(8, 12, 1)
        self.norm = nn.BatchNorm2d(12)
        self.b = nn.Conv2d(12, 12, 3, 1, 1, groups=groups)
        self.last = nn.Conv2d(12, 12, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(F.relu(self.stem(x)))))
        return self.fc(self.last(F.relu(self.b(x))).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def batches(count: int = 4, size: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, size, size, generator=generator) for _ in range(count)]


def test_smooth_channels_are_those_that_lose_least(net: Net) -> None:
    """Against the loss measured one channel at a time: halve it, and look behind ``b``."""
    data = batches()
    octave = octavize(net, 0.25, example=data[0], placement=["a"], choose="smooth", batches=data)
    assert isinstance(octave.a, OctConv2d)
    chosen = [c for start, stop in octave.a.layout.low for c in range(start, stop)]
    loss = torch.zeros(12)
    with torch.no_grad():
        for x in data:
            y = F.relu(net.norm(net.a(F.relu(net.stem(x)))))
            for c in range(12):
                halved = y.clone()
                halved[:, c] = upsample(pool(y), y.shape[-2:])[:, c]
                # Independent pixels: the loss of each output adds up over the 3x3 window.
                kernel = net.b.weight[:, c].square().sum()
                loss[c] += (halved[:, c] - y[:, c]).square().mean() * kernel
    assert chosen == sorted(loss.argsort()[:3].tolist())
    assert chosen != [0, 1, 2], "nothing was chosen"
    octave.load_state_dict(net.state_dict(), strict=True)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_smooth_channels_mean_the_same_weights(groups: int) -> None:
    """At a constant input nothing is lost, whichever channels are low: the logits stay."""
    torch.manual_seed(0)
    vanilla = Net(groups).eval()
    data = batches()
    x = torch.randn(2, 3, 1, 1).expand(2, 3, 32, 32)
    octave = octavize(vanilla, 0.4, example=x, placement=["a", "b"], choose="smooth", batches=data)
    for name in ("a", "b"):
        layout = octave.get_submodule(name).layout
        assert layout.num_low == 4
        assert {group.num_low for group in layout.in_groups(groups)} == {4 // groups}
    # Padding makes borders differ: compare with the same convolutions, padded by the edge.
    for model in (vanilla, octave):
        model.stem.padding_mode = model.b.padding_mode = "replicate"
        model.stem._reversed_padding_repeated_twice = [1, 1, 1, 1]
    vanilla.b._reversed_padding_repeated_twice = [1, 1, 1, 1]
    with torch.no_grad():
        torch.testing.assert_close(octave(x), vanilla(x))


def test_first_channels_by_default_and_what_smooth_needs(net: Net) -> None:
    octave = octavize(net, 0.25, example=batches()[0], placement=["a"])
    assert octave.a.layout.low == ((0, 3),)
    with pytest.raises(ValueError, match="batches"):
        octavize(net, 0.25, choose="smooth")
    with pytest.raises(ValueError, match="choose"):
        octavize(net, 0.25, choose="rough")


def test_calibrate_measures_means_over_all_batches(net: Net) -> None:
    octave = octavize(net, 0.25, example=batches()[0], placement=["a"])
    weights = {name: p.clone() for name, p in octave.named_parameters()}
    data = batches(3)
    assert calibrate(octave, iter(data)) is octave
    assert not octave.training
    with torch.no_grad():
        maps = [octave.a(F.relu(octave.stem(x))) for x in data]
    for part, where in (("low", slice(0, 3)), ("high", slice(3, None))):
        means = torch.stack([getattr(y, part).mean((0, 2, 3)) for y in maps]).mean(0)
        torch.testing.assert_close(octave.norm.running_mean[where], means)
    assert octave.norm.momentum == 0.1
    assert all(torch.equal(p, weights[name]) for name, p in octave.named_parameters())
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(octave, [])


def test_the_divergence_is_that_of_the_student_from_the_teacher() -> None:
    """The sum over classes of q (log q - log p), where q are the teacher's probabilities."""
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64).mul(3)
    p, q = ((x / 2).softmax(1) for x in (student, teacher))
    wanted = 4 * (q * (q.log() - p.log())).sum(1).mean()
    assert divergence(student, teacher, 2.0).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_distil_brings_the_student_to_its_teacher(net: Net) -> None:
    data = batches()
    student = octavize(net, 0.5, example=data[0], placement=["a", "b"])
    before = copy.deepcopy(net.state_dict())
    losses: list[float] = []
    distill(student, net, data, 40, lr=0.02, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == 40
    assert sum(losses[-4:]) < 0.3 * sum(losses[:4])
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(p.grad is not None for p in net.parameters())


def test_distil_learns_from_large_answers(net: Net) -> None:
    """Without a limit on the gradients, this student ends farther away than it was."""
    net.fc.weight.data *= 30
    data = batches()

    def losses(max_norm: float) -> list[float]:
        student = octavize(net, 0.5, example=data[0], placement=["a", "b"])
        seen: list[float] = []
        note = lambda step, loss: seen.append(loss)  # noqa: E731
        distill(student, net, data, 40, lr=0.2, max_norm=max_norm, progress=note)
        return seen

    limited, free = losses(1.0), losses(1e9)
    assert limited[-1] < 0.1 * limited[0]
    assert free[-1] > free[0]


def test_distil_leaves_the_student_as_it_was_where_it_fails(net: Net) -> None:
    student = octavize(net, 0.5, example=batches()[0])
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match="lower lr"):
        distill(student, net, batches(), 40, lr=1e30)
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    with pytest.raises(ValueError, match="not an iterator"):
        distill(student, net, iter(batches(2)), 5)
    net.register_forward_hook(lambda module, inputs, output: {"logits": output})
    with pytest.raises(ValueError, match="loss="):
        distill(student, net, batches(), 1)


def test_a_budget_spares_the_layers_that_lose_most(net: Net) -> None:
    """``a`` feeds the 3x3 convolution alone; the exact choice of two is checked by hand."""
    data = batches(2)
    options = {"example": data[0], "placement": ["a", "b"], "batches": data}
    ratios, losses = {}, {}
    for names in (["a", "b"], ["a"], ["b"]):
        octave = octavize(net, 0.5, example=data[0], placement=names)
        ratios[tuple(names)] = summary(octave, data[0]).ratio
        with torch.no_grad():
            loss = sum(divergence(octave(x), net(x), 1.0) for x in data)
        losses[tuple(names)] = float(loss)
    price = {name: losses[name,] / (1 - ratios[name,]) for name in ("a", "b")}
    dear, cheap = sorted(price, key=price.__getitem__, reverse=True)
    # Each of the two alone is within the larger budget: then the price alone decides.
    for budget in (ratios[cheap,] + 1e-6, max(ratios["a",], ratios["b",]) + 1e-6):
        assert list(low_channels(octavize(net, 0.5, budget=budget, **options))) == [cheap]
    budget = ratios[cheap,] + 1e-6
    spared = octavize(net, 0.5, budget=budget, **options)
    assert isinstance(spared.get_submodule(cheap), OctConv2d)
    assert summary(spared, data[0]).ratio <= budget
    assert {row.name: row.reason for row in summary(spared, data[0]).rows}[dear].startswith(
        "spared"
    )
    both = octavize(net, 0.5, budget=ratios["a", "b"] + 1e-6, **options)
    assert list(low_channels(both)) == ["a", "b"]
    with pytest.raises(ValueError, match="cannot be met"):
        octavize(net, 0.5, budget=0.1, **options)
