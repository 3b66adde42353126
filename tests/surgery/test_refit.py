"""Least squares bring each layer of a converted network close to the vanilla one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo import octavize, refit
from octvideo.layers import merge, pool, upsample
from octvideo.surgery.refit import RIDGE


class Net(nn.Module):
    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.a = nn.Conv2d(8, 12, 1)
        self.norm = nn.BatchNorm2d(12)
        self.b = nn.Conv2d(12, 12, 3, 1, 1, groups=groups)
        self.c = nn.Conv2d(12, 12, 3, 2, 1)
        self.fc = nn.Linear(12, 5)

    def maps(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(F.relu(self.stem(x)))))
        return self.c(F.relu(x + self.b(F.relu(self.b(x)))))  # one layer, twice

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.maps(x)).mean((2, 3)))


class Once(Net):
    def maps(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(F.relu(self.stem(x)))))
        return self.c(F.relu(self.b(x)))


def batches(count: int = 4, size: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    small = [torch.randn(4, 3, size // 2, size // 2, generator=generator) for _ in range(count)]
    return [F.interpolate(x, scale_factor=2, mode="bilinear") for x in small]


def test_a_layer_is_solved_as_in_closed_form() -> None:
    """The 3x3 convolution behind one octave layer, against ``lstsq`` on all its patches."""
    torch.manual_seed(0)
    net = Once().double().eval()
    data = [x.double() for x in batches(1, 24)]
    student = octavize(net, 0.25, example=data[0], placement=["a"])
    refit(student, net, data, iterations=60)
    torch.testing.assert_close(student.a.weight, net.a.weight)  # it loses nothing

    rows, wanted = [], []
    with torch.no_grad():
        for x in data:
            x = F.relu(net.stem(x))
            x, low = (F.relu(net.norm(net.a(x))) for x in (x, pool(x)))
            size = x.shape[-2:]
            low = F.unfold(low[:, :3], 3, padding=1).unflatten(2, [s // 2 for s in size])
            patches = F.unfold(x[:, 3:], 3, padding=1).unflatten(2, size)
            rows.append(torch.cat([upsample(low, size), patches], 1).movedim(1, -1).flatten(0, 2))
            wanted.append((net.b(x) - net.b.bias[:, None, None]).movedim(1, -1).flatten(0, 2))
    matrix, target = torch.cat(rows), torch.cat(wanted)
    for channel, old in enumerate(net.b.weight.detach().flatten(1)):
        rest = target[:, channel] - matrix @ old
        gradient = matrix.T @ rest
        ridge = RIDGE * (matrix @ gradient).square().sum() / gradient.square().sum()
        tall = torch.cat([matrix, ridge.sqrt() * torch.eye(len(old), dtype=torch.double)])
        rest = torch.cat([rest, torch.zeros(len(old), dtype=torch.double)])
        best = old + torch.linalg.lstsq(tall, rest[:, None]).solution.flatten()
        torch.testing.assert_close(student.b.weight[channel].flatten(), best, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 12])
@pytest.mark.parametrize("choose", ["first", "smooth"])
def test_the_answers_come_closer_to_the_teachers(groups: int, choose: str) -> None:
    """On inputs that it has not seen; groups, depthwise, stride 2, and a layer that runs twice."""
    torch.manual_seed(0)
    net = Net(groups).eval()
    data, others = batches(5)[:4], batches(5)[4:]
    student = octavize(
        net, 0.5, example=data[0], placement=["a", "b"], choose=choose, batches=data
    ).eval()
    vanilla = copy.deepcopy(net.state_dict())

    def distance() -> float:
        with torch.no_grad():
            far = [merge(student.maps(x)) - net.maps(x) for x in others]
        return float(torch.cat(far).square().mean())

    before = distance()
    student.train()
    names: list[str] = []
    assert refit(student, net, data, progress=names.append) is student
    assert names == ["a", "b", "c"]
    assert student.training
    student.eval()
    assert distance() < 0.7 * before
    assert all(torch.equal(value, vanilla[key]) for key, value in net.state_dict().items())
    assert [*student.state_dict()] == [*vanilla]
    for name in ("stem.weight", "b.bias", "norm.running_mean", "fc.weight"):
        assert torch.equal(student.state_dict()[name], vanilla[name])


def test_too_few_pixels_for_all_layers_are_said(caplog: pytest.LogCaptureFixture) -> None:
    net = Once().eval()
    student = octavize(net, 0.5, example=batches()[0], placement=["a", "b"])
    refit(student, net, [torch.randn(1, 3, 8, 8)])
    assert "changed no layer" in caplog.text
    caplog.clear()
    refit(student, net, batches())
    assert not caplog.records


def test_too_few_pixels_change_nothing_and_errors_neither() -> None:
    torch.manual_seed(0)
    net = Once().eval()
    student = octavize(net, 0.5, example=batches()[0], placement=["a", "b"])
    before = copy.deepcopy(student.state_dict())

    def changed() -> list[str]:
        return [n for n, value in student.state_dict().items() if not torch.equal(value, before[n])]

    refit(student, net, [torch.randn(1, 3, 16, 16)])  # 16 low pixels, and 108 weights behind them
    assert not {"b.weight", "c.weight"} & {*changed()}
    student.load_state_dict(before)
    with pytest.raises(ValueError, match="finite"):
        refit(student, net, [torch.full((4, 3, 32, 32), torch.nan)])
    with pytest.raises(ValueError, match="at least one batch"):
        refit(student, net, [])
    with pytest.raises(ValueError, match="no layer a"):
        refit(student, nn.Sequential(net), batches())
    assert not changed()
