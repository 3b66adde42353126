"""What a checkpoint says about a run: refused where damaged, the same in PySlowFast and here."""

import copy
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octvideo.config import load_cfg
from octvideo.engine.checkpoint import CheckpointError
from octvideo.engine.meters import TrainMeter
from octvideo.engine.optim import build_optimizer, saved_state, set_lr
from octvideo.engine.record import Record, optimizer_state, read_record

CPU = torch.device("cpu")
FILE = Path("file.pyth")


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), nn.Flatten(), nn.Linear(3, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> nn.Module:
    """One step on gradients that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    optimizer.step()
    return model


def their_optimizer(model: nn.Module, method: str) -> torch.optim.Optimizer:
    """Groups as in construct_optimizer of PySlowFast; neither fused nor channels-last."""
    norm = list(model[1].parameters())
    rest = [*model[0].parameters(), *model[3].parameters()]
    groups: list[dict[str, Any]] = [
        {"params": norm, "weight_decay": 0.0, "layer_decay": 1.0, "apply_LARS": False},
        {"params": rest, "weight_decay": 1e-4, "layer_decay": 1.0, "apply_LARS": False},
    ]
    if method == "sgd":
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    return torch.optim.Adam(groups, lr=0.1, betas=(0.9, 0.999))


def assert_close(a: nn.Module, b: nn.Module) -> None:
    for left, right in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)


def ours_from(model: nn.Module, method: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    ours = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
    return ours, build_optimizer(ours, load_cfg(None, _options(method)))


def _options(method: str) -> list[str]:
    return ["SOLVER.OPTIMIZING_METHOD", method, "SOLVER.BASE_LR", "0.1"]


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_the_state_of_contiguous_weights_is_that_of_channels_last_ones(method):
    """From PySlowFast to octvideo: the next step is the one that PySlowFast would make."""
    theirs = network()
    optimizer = their_optimizer(theirs, method)
    train(theirs, optimizer, 1)
    ours, resumed = ours_from(theirs, method)
    resumed.load_state_dict(optimizer_state(FILE, optimizer.state_dict(), resumed))
    assert_close(train(ours, resumed, 2), train(theirs, optimizer, 2))


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_pyslowfast_resumes_from_our_state(method, tmp_path):
    """Back again, by the steps of its load_checkpoint, set_lr and LARS.step."""
    ours, optimizer = ours_from(network(), method)
    train(ours, optimizer, 1)
    torch.save({"optimizer_state": saved_state(optimizer)}, tmp_path / "checkpoint.pyth")
    theirs = network()
    theirs.load_state_dict(ours.state_dict())
    resumed = their_optimizer(theirs, method)
    content = torch.load(tmp_path / "checkpoint.pyth", map_location="cpu")
    resumed.load_state_dict(content["optimizer_state"])
    for group in resumed.param_groups:
        group["lr"] = 0.05 * group["layer_decay"]
    assert [group["apply_LARS"] for group in resumed.param_groups] == [False, False]
    assert not any(group["fused"] for group in resumed.param_groups)
    set_lr(optimizer, 0.05)
    assert_close(train(theirs, resumed, 2), train(ours, optimizer, 2))


def test_groups_say_where_pyslowfast_applies_lars():
    cfg = load_cfg(None, ["SOLVER.LARS_ON", "True", "SOLVER.ZERO_WD_1D_PARAM", "True"])
    groups = build_optimizer(network(), cfg).param_groups
    assert [group["apply_LARS"] for group in groups] == [False, True, True]  # norms, rest, 1-D


# ---------------------------------------------------------------------------- damage


@pytest.fixture
def sound() -> tuple[dict, torch.optim.Optimizer, dict]:
    """The record of a run of two processes, and what it is read for."""
    model = network()
    optimizer = build_optimizer(model, load_cfg(None, _options("sgd")))
    train(model, optimizer, 1)
    meters = {name: TrainMeter(CPU) for name in ("steps", "epoch")}
    ranks = [
        {
            "rng": torch.Generator().manual_seed(rank).get_state(),
            "meters": {name: meter.state() for name, meter in meters.items()},
        }
        for rank in range(2)
    ]
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    content = {
        **{"epoch": 3, "step": 2, "samples": 12, "best_epoch": 2},
        **{"world": {"processes": 2}, "min_errors": {"min_top1_err": 30.0}},
        **{"model_state": weights, "ema_state": dict(weights), "rank_states": ranks},
        "optimizer_state": saved_state(optimizer),
        "scaler_state": {"scale": 1024.0, "_growth_tracker": 3, "skipped": 1, "in_a_row": 0},
    }
    return content, optimizer, meters


def read(content: dict, optimizer: torch.optim.Optimizer, meters: dict, path: Path) -> Record:
    torch.save(content, path)  # its size counts
    return read_record(path, torch.load(path), optimizer, meters, CPU)


def test_a_sound_record(sound, tmp_path):
    content, optimizer, meters = sound
    record = read(content, optimizer, meters, tmp_path / FILE)
    assert (record.epochs, record.step, record.samples) == (3, 2, 12)
    assert record.scaler == content["scaler_state"]
    assert torch.equal(record.ranks[1].rng, content["rank_states"][1]["rng"])
    finished = {**content, "step": 0, "samples": 0}
    assert read(finished, optimizer, meters, tmp_path / FILE).epochs == 4
    theirs = {key: content[key] for key in ("epoch", "model_state", "optimizer_state")}
    record = read(theirs, optimizer, meters, tmp_path / FILE)  # all that PySlowFast has
    assert (record.epochs, record.step, record.samples, record.ranks) == (4, 0, None, [])


BAD = {
    **{"nan": math.nan, "inf": math.inf, "below 0": -1, "large": 10**30, "complex": 1j},
    **{"far below 0": -(10**30), "fraction": 1.5, "text": "text", "bool": True, "None": None},
    **{"list": [1, 2], "dict": {"a": {}}, "tensor": torch.zeros(3), "empty": torch.zeros(0)},
    **{"number in a tensor": torch.tensor(2), "sparse": torch.eye(3).to_sparse()},
}
BUFFERS = "optimizer_state/state/2"
# What is as good as no value, or sound: which of BAD may be there.
SOUND = {
    **dict.fromkeys(["epoch", "step", "world", "world/processes", "optimizer_state"], ""),
    **dict.fromkeys(["samples", "best_epoch", "scaler_state", "ema_state"], "None"),
    **{"min_errors": "dict", "min_errors/min_top1_err": "fraction", "ema_state/0.weight": ""},
    **{"scaler_state/scale": "large fraction", "scaler_state/_growth_tracker": ""},
    **dict.fromkeys(["rank_states", "rank_states/0", "rank_states/1/rng"], ""),
    **{"rank_states/1/meters": "", "rank_states/1/meters/steps": ""},
    "rank_states/1/meters/steps/0": "large fraction",
    **dict.fromkeys(["optimizer_state/state", "optimizer_state/param_groups"], ""),
    **{"optimizer_state/param_groups/0": "", "optimizer_state/param_groups/0/params": ""},
    "optimizer_state/param_groups/0/params/0": "",
    "optimizer_state/param_groups/0/lr": "large fraction",
    **{BUFFERS: "", f"{BUFFERS}/momentum_buffer": ""},
}


def replaced(content: Any, field: str, value: Any) -> Any:
    name, _, rest = field.partition("/")
    key = int(name) if name.isdecimal() else name
    changed = list(content) if isinstance(content, list) else dict(content)
    changed[key] = replaced(changed[key], rest, value) if rest else value
    return changed


def test_a_damaged_field_is_refused_and_nothing_is_taken(sound, tmp_path):
    content, optimizer, meters = sound
    path = tmp_path / FILE
    torch.save(content, path)  # its size counts
    before = str(optimizer.state_dict()), str(torch.get_rng_state().tolist())
    for field, good in SOUND.items():
        accepted = []
        for name, value in BAD.items():
            with suppress(CheckpointError):
                read_record(path, replaced(content, field, value), optimizer, meters, CPU)
                accepted.append(name)
        assert sorted(accepted) == sorted(good.split()), field
    assert (str(optimizer.state_dict()), str(torch.get_rng_state().tolist())) == before


def test_buffers_that_are_not_as_their_parameters_are_refused(sound, tmp_path):
    """torch's fused optimizers would write behind a short buffer."""
    content, optimizer, meters = sound
    buffer: Tensor = content["optimizer_state"]["state"][2]["momentum_buffer"]
    bad = [
        *(buffer.flatten()[:1], torch.zeros(1).expand(buffer.shape), buffer[..., :1].clone()),
        *(buffer.double(), buffer.half(), buffer.to(torch.complex64), buffer.int()),
        *(buffer.flatten(), buffer[None], buffer.to("meta")),
    ]
    for value in bad:
        changed = replaced(content, f"{BUFFERS}/momentum_buffer", value)
        with pytest.raises(CheckpointError, match=str(FILE)):
            read(changed, optimizer, meters, tmp_path / FILE)
    # A view of a larger storage is sound, and copied.
    large = torch.stack([buffer, buffer], dim=-1)[..., 0]
    record = read(
        replaced(content, f"{BUFFERS}/momentum_buffer", large),
        *(optimizer, meters, tmp_path / FILE),
    )
    taken = record.optimizer["state"][2]["momentum_buffer"]
    assert torch.equal(taken, buffer)
    assert taken.untyped_storage().nbytes() == 4 * buffer.numel()


def test_a_damaged_state_of_adam_is_refused():
    model = network()
    optimizer = build_optimizer(model, load_cfg(None, _options("adamw")))
    train(model, optimizer, 1)
    state = saved_state(optimizer)
    taken = optimizer_state(FILE, state, optimizer)["state"]
    assert all(torch.equal(taken[2][name], state["state"][2][name]) for name in state["state"][2])
    for name, values in {
        "step": [math.nan, -1.0, None, "1", torch.ones(2), torch.tensor(math.inf)],
        "exp_avg": [None, torch.zeros(1), torch.zeros(1).expand(3, 2, 3, 3, 3)],
        "exp_avg_sq": [None, torch.zeros(3, 2, 3, 3, 2)],
        "momentum_buffer": [torch.zeros(3, 2, 3, 3, 3)],  # of SGD
    }.items():
        for value in values:
            with pytest.raises(CheckpointError, match=str(FILE)):
                optimizer_state(FILE, replaced(state, f"state/2/{name}", value), optimizer)
