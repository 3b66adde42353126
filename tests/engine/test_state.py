"""State of a run in a checkpoint: refused if damaged, and the same in PySlowFast and here."""

import copy
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from octvideo.config import load_cfg
from octvideo.data.loader import EpochSampler
from octvideo.engine.averaging import WeightAverage
from octvideo.engine.checkpoint import CheckpointError
from octvideo.engine.meters import TrainMeter
from octvideo.engine.optim import build_optimizer, set_lr
from octvideo.engine.optimizer_state import OptimizerState
from octvideo.engine.process_state import ProcessStates
from octvideo.engine.progress import Progress
from octvideo.engine.state import ModelState, Saved, load_state
from octvideo.engine.update import LossScaler, ScalerState

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


def load_optimizer(optimizer: torch.optim.Optimizer, state: object) -> None:
    load_state([OptimizerState(optimizer)], Saved(FILE, {"optimizer_state": state}))


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
    load_optimizer(resumed, optimizer.state_dict())
    assert_close(train(ours, resumed, 2), train(theirs, optimizer, 2))


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_pyslowfast_resumes_from_our_state(method, tmp_path):
    """Back again, by the steps of its load_checkpoint, set_lr and LARS.step."""
    ours, optimizer = ours_from(network(), method)
    train(ours, optimizer, 1)
    torch.save(OptimizerState(optimizer).state_dict(), tmp_path / "checkpoint.pyth")
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


class Run:
    """The owners of the state of a run of one process, after one step."""

    def __init__(self, seed: int) -> None:
        self.model = network()
        self.optimizer = build_optimizer(self.model, load_cfg(None, _options("sgd")))
        train(self.model, self.optimizer, seed)
        self.meters = {name: TrainMeter(CPU) for name in ("steps", "epoch")}
        self.progress = Progress(EpochSampler(24, 6), max_epoch=10)
        self.scaler = LossScaler(CPU, enabled=True)
        self.average = WeightAverage(self.model, 0.5)
        self.owners = [
            *(self.progress, ModelState(self.model), self.average),
            *(OptimizerState(self.optimizer), ScalerState(self.scaler)),
            ProcessStates(CPU, self.meters, self.progress, seed=1),
        ]

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({k: v for owner in self.owners for k, v in owner.state_dict().items()})

    def read(self, content: dict, path: Path) -> None:
        torch.save(content, path)  # its size counts
        load_state(self.owners, Saved(path, torch.load(path)))


@pytest.fixture
def run() -> Run:
    return Run(seed=1)


@pytest.fixture
def sound(run) -> dict[str, Any]:
    """What is in a checkpoint of two processes."""
    rngs = [torch.Generator().manual_seed(rank).get_state() for rank in range(2)]
    return {
        **run.state(),
        **{"epoch": 3, "step": 2, "samples": 12, "best_epoch": 2},
        **{"world": {"processes": 2}, "min_errors": {"min_top1_err": 30.0}},
        "rank_states": [{"rng": rng, "meters": {"steps": [1.0] * 5}} for rng in rngs],
        "scaler_state": {"scale": 1024.0, "_growth_tracker": 3, "skipped": 1, "in_a_row": 0},
    }


def test_a_sound_state_is_taken(sound, tmp_path):
    run = Run(seed=2)
    run.read(sound, tmp_path / FILE)
    progress = run.progress
    assert (progress.epoch, progress.step, progress.samples) == (3, 2, 12)
    assert progress.min_errors == {"min_top1_err": 30.0, "min_top5_err": 100.0}
    assert progress.best_epoch == 2
    for key, value in sound["scaler_state"].items():
        assert run.scaler.state_dict()[key] == value
    assert run.meters["steps"].state() == [2.0] * 5  # of another number of processes: the sum
    for key in ("model_state", "ema_state"):
        assert all(torch.equal(value, sound[key][name]) for name, value in run.state()[key].items())
    one = {**sound, "rank_states": sound["rank_states"][1:]}
    run.read(one, tmp_path / FILE)
    assert torch.equal(torch.get_rng_state(), sound["rank_states"][1]["rng"])
    run.read({**sound, "step": 0, "samples": 0}, tmp_path / FILE)
    assert (progress.epoch, progress.step, progress.samples) == (4, 0, 0)


def test_what_files_of_pyslowfast_have_is_enough(sound, tmp_path):
    theirs = {key: sound[key] for key in ("epoch", "model_state", "optimizer_state")}
    run = Run(seed=2)
    run.read(theirs, tmp_path / FILE)
    assert (run.progress.epoch, run.progress.step, run.progress.samples) == (4, 0, 0)
    average = run.state()["ema_state"]  # begins with the weights of the file
    assert all(torch.equal(average[name], v) for name, v in sound["model_state"].items())
    run.read({**theirs, "step": 3}, tmp_path / FILE)  # an older version, which did not say
    assert (run.progress.epoch, run.progress.samples) == (3, 18)


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


def test_a_damaged_field_is_refused_and_nothing_is_taken(run, sound, tmp_path):
    path = tmp_path / FILE
    torch.save(sound, path)  # its size counts
    before = str(run.state())
    for field, good in SOUND.items():
        accepted = []
        for name, value in BAD.items():
            with suppress(CheckpointError):
                saved = Saved(path, replaced(sound, field, value))
                for owner in run.owners:
                    owner.check_state(saved)
                accepted.append(name)
        assert sorted(accepted) == sorted(good.split()), field
    assert str(run.state()) == before


def test_one_damaged_field_keeps_all_others_from_being_taken(run, sound, tmp_path):
    before = str(run.state())
    for field in ("optimizer_state/state/2/momentum_buffer", "rank_states/1/rng"):
        with pytest.raises(CheckpointError, match=str(FILE)):
            run.read(replaced(sound, field, torch.zeros(3)), tmp_path / FILE)
        assert str(run.state()) == before


def test_buffers_that_are_not_as_their_parameters_are_refused(run, sound, tmp_path):
    """torch's fused optimizers would write behind a short buffer."""
    buffer: Tensor = sound["optimizer_state"]["state"][2]["momentum_buffer"]
    bad = [
        *(buffer.flatten()[:1], torch.zeros(1).expand(buffer.shape), buffer[..., :1].clone()),
        *(buffer.double(), buffer.half(), buffer.to(torch.complex64), buffer.int()),
        *(buffer.flatten(), buffer[None], buffer.to("meta")),
    ]
    for value in bad:
        changed = replaced(sound, f"{BUFFERS}/momentum_buffer", value)
        with pytest.raises(CheckpointError, match=str(FILE)):
            run.read(changed, tmp_path / FILE)
    # A view of a larger storage is sound, and copied.
    large = torch.stack([buffer, buffer], dim=-1)[..., 0]
    run.read(replaced(sound, f"{BUFFERS}/momentum_buffer", large), tmp_path / FILE)
    [taken] = [
        state["momentum_buffer"]
        for parameter, state in run.optimizer.state.items()
        if parameter is run.model[0].weight
    ]
    assert torch.equal(taken, buffer)
    assert taken.untyped_storage().nbytes() == 4 * buffer.numel()


def test_a_damaged_state_of_adam_is_refused():
    model = network()
    optimizer = build_optimizer(model, load_cfg(None, _options("adamw")))
    train(model, optimizer, 1)
    state = copy.deepcopy(OptimizerState(optimizer).state_dict()["optimizer_state"])
    load_optimizer(optimizer, state)
    taken = OptimizerState(optimizer).state_dict()["optimizer_state"]["state"]
    assert all(torch.equal(taken[2][name], state["state"][2][name]) for name in state["state"][2])
    for name, values in {
        "step": [math.nan, -1.0, None, "1", torch.ones(2), torch.tensor(math.inf)],
        "exp_avg": [None, torch.zeros(1), torch.zeros(1).expand(3, 2, 3, 3, 3)],
        "exp_avg_sq": [None, torch.zeros(3, 2, 3, 3, 2)],
        "momentum_buffer": [torch.zeros(3, 2, 3, 3, 3)],  # of SGD
    }.items():
        for value in values:
            with pytest.raises(CheckpointError, match=str(FILE)):
                load_optimizer(optimizer, replaced(state, f"state/2/{name}", value))
