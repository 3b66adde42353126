import pytest
import torch
from torch import nn

from octvideo.engine.averaging import WeightAverage, update_bn_statistics
from octvideo.layers import Channels, OctBatchNorm2d, OctConv2d, pool, synchronize_batch_norm
from support.processes import run_processes


def test_statistics_are_those_of_all_batches_together():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3)
    batches = [torch.randn(n, 3, 4, 5) * (n + 1) + n for n in (2, 5, 3)]
    assert update_bn_statistics(layer, batches) == 3
    everything = torch.cat(batches)
    torch.testing.assert_close(layer.running_mean, everything.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, everything.var((0, 2, 3), unbiased=False))


def test_octave_layers_are_counted_for_each_frequency():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = OctBatchNorm2d(Channels(3, 2))

        def forward(self, x):
            return self.bn((x[:, 2:], pool(x[:, :2])))

    net = Net()
    batches = [torch.randn(n, 5, 5, 7) + n for n in (1, 4)]
    update_bn_statistics(net, batches)
    everything = torch.cat(batches)
    low = pool(everything[:, :2])
    high = everything[:, 2:]
    for part, statistics in ((low, slice(0, 2)), (high, slice(2, 5))):
        torch.testing.assert_close(net.bn.running_mean[statistics], part.mean((0, 2, 3)))
        var = part.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(net.bn.running_var[statistics], var)


def test_momentum_mode_and_weights_are_as_before():
    net = nn.Sequential(OctConv2d(3, 4, 1), OctBatchNorm2d(4, momentum=0.3)).eval()
    weights = [p.clone() for p in net.parameters()]
    update_bn_statistics(net, [torch.randn(2, 3, 4, 4)])
    assert net[1].momentum == 0.3
    assert not net.training
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))


def test_an_interrupted_pass_changes_nothing():
    layer = nn.BatchNorm1d(2)
    layer.running_mean.fill_(7.0)

    def batches():
        yield torch.randn(4, 2)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        update_bn_statistics(layer, batches())
    assert torch.equal(layer.running_mean, torch.full((2,), 7.0))
    assert torch.equal(layer.running_var, torch.ones(2))
    assert layer.momentum == 0.1
    assert update_bn_statistics(layer, []) == 0
    assert torch.equal(layer.running_mean, torch.full((2,), 7.0))


def test_the_random_numbers_and_counters_of_training_are_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    state = torch.get_rng_state()
    update_bn_statistics(net, [torch.ones(2, 3, 4, 4)] * 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert net[1].num_batches_tracked == 0


def test_two_models_get_their_own_statistics_from_one_pass():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(2)]
    batches = [torch.randn(n, 3, 5, 6) for n in (2, 4)]
    models[1].eval()
    served = iter(batches)
    assert update_bn_statistics(models, served) == 2
    assert [m.training for m in models] == [True, False]
    for model in models:
        out = model[0](torch.cat(batches))
        torch.testing.assert_close(model[1].running_mean, out.mean((0, 2, 3)))


def test_average_of_the_weights_written_out():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    average = WeightAverage(net, decay=0.9)
    assert not any(p.requires_grad for p in average.model.parameters())
    assert not average.model.training
    average.restart()
    expected = {key: value.double().clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        net(torch.randn(4, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        average.update()
        for key, value in net.state_dict().items():
            expected[key] = 0.9 * expected[key] + 0.1 * value.double()
    own = average.model.state_dict()
    assert own.keys() == net.state_dict().keys()
    assert own["1.num_batches_tracked"] == 5  # a counter is no average
    for key in own.keys() - {"1.num_batches_tracked"}:
        torch.testing.assert_close(own[key].double(), expected[key], rtol=1e-5, atol=1e-7)
        assert not torch.equal(own[key], net.state_dict()[key])


def test_an_average_restarts_from_weights_that_were_loaded():
    net = nn.Linear(2, 2)
    average = WeightAverage(net, decay=0.5)
    net.load_state_dict({"weight": torch.eye(2), "bias": torch.ones(2)})
    average.restart()
    assert torch.equal(average.model.weight, torch.eye(2))
    net.load_state_dict({"weight": 3 * torch.eye(2), "bias": torch.ones(2)})
    average.update()
    assert torch.equal(average.model.weight, 2 * torch.eye(2))
    assert torch.equal(net.weight, 3 * torch.eye(2))


WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]])


def _network() -> nn.Module:
    layers = (nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    network = nn.Sequential(*layers)
    network[0].weight.data = WEIGHT[..., None, None]
    return network.double()


def _batches() -> list[torch.Tensor]:
    """Two steps of batches for two processes, of 3 and of 5 pictures."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    return [torch.randn(n, 2, 4, 4, **options) + 3 for n in (3, 5, 3, 5)]


def of_process(rank: int) -> tuple[dict, dict]:
    own, together = _network(), synchronize_batch_norm(_network())
    for network in (own, together):
        assert update_bn_statistics(network, _batches()[rank::2]) == 2
    return own.state_dict(), together.state_dict()


@pytest.mark.timeout(60)
def test_statistics_are_those_of_all_processes(tmp_path):
    """Normalised by each, as one process with all batches; together, as one with joint batches."""
    states = run_processes(of_process, 2, tmp_path, timeout=50)
    batches = _batches()
    joint = [torch.cat(batches[:2]), torch.cat(batches[2:])]
    for kind, wanted in enumerate((batches, joint)):
        network = _network()
        update_bn_statistics(network, wanted)
        for state in states:
            for key, value in network.state_dict().items():
                torch.testing.assert_close(state[kind][key], value, msg=f"{kind} {key}")
