"""Losses that are nan or inf: the run stops and names the videos, or goes on without the step."""

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from octvideo.config import load_cfg
from octvideo.engine import launch, run_train
from octvideo.engine.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from octvideo.engine.meters import TrainMeter
from octvideo.engine.precision import Evaluation
from octvideo.engine.step import Transfer
from octvideo.engine.train import build_trainer
from octvideo.engine.trainer import Trainer
from octvideo.utils.errors import UserError
from support import ROOT
from support.steps import TensorStep

pytestmark = pytest.mark.timeout(120)
CPU = torch.device("cpu")
CFG = ROOT / "configs/Synthetic/OCT_I3D.yaml"


def network() -> nn.Module:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), *head)


OPTIMIZERS = {
    "sgd": lambda p, **kw: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, **kw
    ),
    "adamw": lambda p, **kw: torch.optim.AdamW(p, lr=0.1, **kw),
}


def stepper(name: str, fused: bool, **kwargs) -> TensorStep:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters(), fused=fused or None)
    return TensorStep(model, optimizer, **kwargs)


def clips(seed: int, value: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(4, 3, 3, 6, 6, generator=generator)
    video[1, 0, 0] *= value
    return video, torch.tensor([0, 1, 2, 0])


def state_of(step: TensorStep) -> tuple[dict, dict]:
    return copy.deepcopy((step.network.state_dict(), step.update.optimizer.state_dict()["state"]))


def assert_same(ours: tuple[dict, dict], theirs: tuple[dict, dict]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad_at", [0, 1, 3])
def test_a_skipped_step_changes_nothing(name, fused, parts, bad_at):
    """Weights, momentum and statistics: the run is that without the batch, bit for bit."""
    ours, theirs = (stepper(name, fused, parts=parts, skip_nonfinite=s) for s in (True, False))
    meter = TrainMeter(CPU, skip_lost=True)
    for number in range(4):
        if number == bad_at:
            before = state_of(ours)
            loss = ours(*clips(99, float("nan")), [meter])
            assert not loss.isfinite()
            assert_same(state_of(ours), before)
        ours(*clips(number), [meter])
        theirs(*clips(number), [])
    assert_same(state_of(ours), state_of(theirs))
    assert ours.update.scaling() == {"skipped_steps": 1}
    assert ours.update.failure(meter.read()["loss"]) is None


def test_gradients_count_not_only_the_loss():
    ours = stepper("sgd", False, skip_nonfinite=True)
    ours.network[0].weight.register_hook(lambda g: g * float("inf"))
    before = state_of(ours)
    assert ours(*clips(0), []).isfinite()
    assert_same(state_of(ours), before)


def test_many_in_a_row_are_too_many():
    ours = stepper("sgd", False, skip_nonfinite=True)
    for count in range(3):
        assert (ours.update.failure(float("nan")) is None) == (count < 3)
        ours(*clips(0, float("inf")), [])
    assert "for 3 steps in a row" in ours.update.failure(1.0)
    ours(*clips(0), [])
    assert ours.update.failure(1.0) is None


def test_the_first_step_of_fp16_may_overflow_with_a_fused_optimizer():
    """torch 2.13's fused SGD makes its momentum of whatever is in memory then."""
    ours = stepper("sgd", True, precision="fp16")
    ours.network[0].weight.register_hook(lambda g: g * float("inf"))
    ours(*clips(0), [])
    assert not ours.update.optimizer.state
    assert ours.update.scaling()["skipped_steps"] == 1


# ---------------------------------------------------------------------------------- in a run


@pytest.fixture
def poisoned(monkeypatch):
    """One video of the set gives pixels that are nan."""
    to_device = Transfer.__call__

    def poison(self, batch):
        video, labels = to_device(self, batch)
        at = batch["index"] == 5
        return video.masked_fill(at[:, None, None, None, None], float("nan")), labels

    monkeypatch.setattr(Transfer, "__call__", poison)


def options(tiny_opts, *more):
    opts = [*tiny_opts, "BN.USE_PRECISE_STATS", "False", "SOLVER.MAX_EPOCH", "1", *map(str, more)]
    return load_cfg(CFG, opts)


def steps_with(trainer: Trainer, video: int) -> tuple[int, list[str]]:
    """The number of the step of the first epoch that a video is in, and the paths of its batch."""
    trainer.train_loader.sampler.set_epoch(0)
    order = [index for _, index in trainer.train_loader.sampler]
    step = order.index(video) // 6
    path_of = trainer.train_loader.dataset.videos.path
    return step + 1, [path_of(index) for index in order[step * 6 : step * 6 + 6]]


@pytest.mark.parametrize("log_period", [1, 100])
def test_the_run_stops_and_names_step_and_videos(tiny_opts, poisoned, log_period):
    cfg = options(tiny_opts, "LOG_PERIOD", log_period)
    step, paths = steps_with(build_trainer(cfg, CPU), 5)
    with pytest.raises(UserError, match=f"the loss is nan.*epoch 1, step {step}, ") as error:
        run_train(cfg)
    assert all(path in str(error.value) for path in paths)
    assert not list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")


def test_the_run_goes_on_without_the_step(tiny_opts, poisoned):
    cfg = options(tiny_opts, "LOG_PERIOD", 1, "TRAIN.NONFINITE_LOSS", "skip")
    step, paths = steps_with(build_trainer(cfg, CPU), 5)
    run_train(cfg)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert log.count(f"nothing is learnt from epoch 1, step {step}, whose videos were") == 1
    assert all(f"  {path}\n" in log for path in paths)
    assert "Epoch 1: 1 steps skipped" in log
    newest = list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1]
    state = load_checkpoint(newest)["model_state"]
    assert all(value.isfinite().all() for value in state.values())


def _poison(monkeypatch, cls, picks) -> None:
    """Scores of the clips that ``picks`` says, by their number in a batch, are nan."""
    evaluate = cls.__call__

    def poisoned(self, clips):
        scores = evaluate(self, clips)
        scores[[i for i in range(len(scores)) if picks(i)]] = float("nan")
        return scores

    monkeypatch.setattr(cls, "__call__", poisoned)


def test_scores_that_are_nan_make_no_accuracy(tiny_opts, monkeypatch):
    """One view of each video is nan: all else is written, and the run ends with status 2."""
    cfg = load_cfg(CFG, [*tiny_opts, "SOLVER.MAX_EPOCH", "1"])
    run_train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    _poison(monkeypatch, Evaluation, lambda view: view == 1)
    cfg = load_cfg(CFG, [*tiny_opts, "TRAIN.ENABLE", "False"])
    assert launch(lambda: [cfg]) == 2
    lines = (folder / "json_stats.log").read_text().splitlines()
    [final] = [json.loads(x.partition(": ")[2]) for x in lines if "test_final" in x]
    assert (final["num_videos"], final["num_nonfinite"]) == (8, 8)
    assert not [key for key in final if "acc" in key]
    assert not (folder / "confusion_matrix.png").exists()
    assert not (folder / "class_accuracy.csv").exists()
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {(row["note"], row["class1"]) for row in rows} == {("scores are not finite", "")}
    with np.load(folder / "scores.npz") as saved:
        assert np.isnan(saved["scores"][:, 1]).all()
        assert np.isfinite(saved["scores"][:, [0, 2, 3, 4, 5]]).all()


def test_weights_that_are_nan_are_not_tested(tiny_opts):
    """Of a layer before a ReLU: that of oneDNN makes 0 of nan."""
    cfg = load_cfg(CFG, [*tiny_opts, "SOLVER.MAX_EPOCH", "1", "TRAIN.EVAL_PERIOD", "0"])
    path = run_train(cfg)
    content = load_checkpoint(path)
    content["model_state"]["s1.pathway0_stem.conv.weight"][0] = float("nan")
    save_checkpoint(path, content)
    cfg = load_cfg(CFG, [*tiny_opts, "TRAIN.ENABLE", "False"])
    assert launch(lambda: [cfg]) == 2
    assert "test_final" not in (Path(cfg.OUTPUT_DIR) / "json_stats.log").read_text()
    told = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text().splitlines()
    assert any(path.name in line and "stem" in line for line in told if "ERROR" in line)


@pytest.mark.parametrize(
    ("mode", "picks", "status"),
    [("stop", lambda i: i == 1, 2), ("skip", lambda i: i == 1, 0), ("skip", lambda i: True, 2)],
)
def test_a_validation_with_nan_gives_no_error(tiny_opts, monkeypatch, mode, picks, status):
    _poison(monkeypatch, Evaluation, picks)
    more = ["TRAIN.NONFINITE_LOSS", mode, "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False"]
    cfg = load_cfg(CFG, [*tiny_opts, *more])
    assert launch(lambda: [cfg]) == status
    folder = Path(cfg.OUTPUT_DIR)
    lines = (folder / "json_stats.log").read_text().splitlines()
    [stats] = [json.loads(x.partition(": ")[2]) for x in lines if "val_epoch" in x]
    assert stats["num_nonfinite"] > 0
    assert "top1_err" not in stats
    assert stats["min_top1_err"] == 100
    assert not (folder / "checkpoints/checkpoint_best.pyth").exists()
