"""LARS against plain numbers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from octvideo.config import load_cfg
from octvideo.engine.optim import build_optimizer, set_lr


class Net(nn.Module):
    """A layer with a bias, a batch norm, a kernel of zeros and one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.bn = nn.BatchNorm1d(2)
        self.zero = nn.Parameter(torch.zeros(2, 2))
        self.still = nn.Parameter(torch.ones(2, 2))
        self.unused = nn.Parameter(torch.ones(2, 2))


def optimizer_of(net: nn.Module, *opts: str, lars: bool = True) -> torch.optim.Optimizer:
    base = ["SOLVER.LARS_ON", str(lars), "SOLVER.WEIGHT_DECAY", "0.03", "BN.WEIGHT_DECAY", "0.02"]
    return build_optimizer(net, load_cfg(None, [*base, *opts]))


def set_gradients(net: Net, seed: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        if name == "still":
            parameter.grad = torch.zeros_like(parameter)
    net.unused.grad = None
    return {
        n: p.grad.double().numpy().copy() for n, p in net.named_parameters() if p.grad is not None
    }


def expected_steps(net: Net, rates: list[float]) -> dict[str, np.ndarray]:
    """SGD with Nesterov momentum 0.9 on the gradients of LARS, in float64."""
    weights = {n: p.detach().double().numpy().copy() for n, p in net.named_parameters()}
    velocity = {n: np.zeros_like(w) for n, w in weights.items()}
    for step, lr in enumerate(rates):
        for name, g in set_gradients(net, step).items():
            w = weights[name]
            if name.startswith("bn"):
                g = g + 0.02 * w
            elif w.ndim > 1 and np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
                size = np.linalg.norm(w)
                rate = 1e-3 * size / (np.linalg.norm(g) + 0.03 * size + 1e-8)
                g = rate * (g + 0.03 * w)
            velocity[name] = 0.9 * velocity[name] + g
            weights[name] = w - lr * (g + 0.9 * velocity[name])
    return weights


def test_steps_written_out():
    torch.manual_seed(0)
    net, rates = Net(), [0.5, 0.5, 0.1]
    expected = expected_steps(net, rates)
    optimizer = optimizer_of(net)
    for step, lr in enumerate(rates):
        before = set_gradients(net, step)
        set_lr(optimizer, lr)
        optimizer.step()
        for name, parameter in net.named_parameters():  # as a log would show them
            if parameter.grad is not None:
                np.testing.assert_array_equal(parameter.grad.double().numpy(), before[name])
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=1e-5, atol=1e-7)
    assert torch.equal(net.still, torch.ones(2, 2))
    assert torch.equal(net.unused, torch.ones(2, 2))


def test_decays_are_back_after_a_step_and_in_a_checkpoint():
    net = Net()
    optimizer = optimizer_of(net)
    set_gradients(net, 0)
    optimizer.step()
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.02, 0.03]
    plain = optimizer_of(net, lars=False).state_dict()["param_groups"]
    assert [g.keys() for g in optimizer.state_dict()["param_groups"]] == [g.keys() for g in plain]


@pytest.mark.parametrize("method", ["sgd", "adamw"])
def test_state_that_is_loaded_goes_on_alike(method):
    torch.manual_seed(0)
    opts = ["SOLVER.OPTIMIZING_METHOD", method]
    first, second = Net(), Net()
    second.load_state_dict(first.state_dict())
    one, other = optimizer_of(first, *opts), optimizer_of(second, *opts)
    set_gradients(first, 0)
    one.step()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for net, optimizer in ((first, one), (second, other)):
        set_gradients(net, 1)
        optimizer.step()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_size_of_a_layer_s_step_follows_its_weights_and_not_its_gradient():
    opts = ["SOLVER.MOMENTUM", "0", "SOLVER.NESTEROV", "False", "SOLVER.WEIGHT_DECAY", "0"]
    for scale in (1e-3, 1.0, 1e3):
        layer = nn.Linear(4, 4, bias=False)
        optimizer = optimizer_of(layer, *opts)
        set_lr(optimizer, 0.1)
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn(4, 4) * scale
        optimizer.step()
        moved = (layer.weight - before).norm() / before.norm()
        assert moved.item() == pytest.approx(0.1 * 1e-3, rel=1e-3)
