"""What a training run tells: in its log, in json_stats lines and to TensorBoard."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from octvideo.config import Processes, describe_scaling, load_cfg
from octvideo.data import VideoReader
from octvideo.engine import launch, run_test, run_train, train_log
from octvideo.engine.checkpoint import load_checkpoint
from octvideo.engine.losses import bce_logit, loss_of_scores
from octvideo.engine.start import start_run
from octvideo.engine.train import build_trainer
from octvideo.models import build_model
from octvideo.utils.errors import UserError
from support import ROOT

CFG = ROOT / "configs/Synthetic/OCT_I3D.yaml"


def with_opts(opts: list[str], *more: object):
    return load_cfg(CFG, [*opts, *map(str, more)])


def stats_of(folder: Path, kind: str, file: str = "json_stats.log") -> list[dict]:
    lines = [x.partition("json_stats: ")[2] for x in (folder / file).read_text().splitlines()]
    return [s for s in map(json.loads, filter(None, lines)) if s["_type"] == kind]


@pytest.fixture
def events():
    """Steps and values of a scalar of TensorBoard, by run and name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(folder: Path, name: str) -> list[tuple[int, float]]:
        accumulator = EventAccumulator(str(folder)).Reload()
        return [(event.step, event.value) for event in accumulator.Scalars(name)]

    return read


def test_curves_of_training_and_validation_share_their_axes(tiny_opts, events):
    """Also where an epoch, of four steps here, is shorter than LOG_PERIOD."""
    more = ["TENSORBOARD.ENABLE", True, "LOG_PERIOD", 10]
    cfg = with_opts(tiny_opts, *more)
    run_train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    runs = folder / "runs-kinetics"
    assert [step for step, _ in events(runs, "Train/loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [step for step, _ in events(runs, "Val/loss")] == [4, 8]
    for run, kind in (("train", "train_epoch"), ("val", "val_epoch")):
        lines = stats_of(folder, kind)
        for name, key in (("loss", "loss"), ("Top1_err", "top1_err")):
            curve = events(runs / run, f"Epoch/{name}")
            assert [step for step, _ in curve] == [1, 2]
            wanted = [line[key] for line in lines]
            np.testing.assert_allclose([value for _, value in curve], wanted, rtol=1e-4)


def test_the_loss_of_a_validation_is_that_of_its_centre_clips(tiny_opts, tiny_set):
    """Computed from the files: the frames, the logits, torch's cross entropy."""
    cfg = with_opts(tiny_opts, "SOLVER.MAX_EPOCH", 1, "BN.USE_PRECISE_STATS", False)
    state = load_checkpoint(run_train(cfg))["model_state"]
    model = build_model(with_opts(tiny_opts, "MODEL.HEAD_ACT", "none")).eval()
    model.load_state_dict(state)
    losses = []
    for row in (tiny_set / "val.csv").read_text().splitlines():
        path, _, label = row.rpartition(" ")
        with VideoReader(str(tiny_set / path)) as reader:
            span = 4 * 4 * reader.fps / 30
            start = max(reader.num_frames - span, 0) / 2
            places = torch.linspace(start, start + span - 1, 4).clamp(0, reader.num_frames - 1)
            frames = reader.get_frames(places.long().tolist())
        clip = torch.from_numpy(frames).float().div(255).sub(0.45).div(0.225).permute(3, 0, 1, 2)
        h, w = clip.shape[2:]
        size = (32, int(w / h * 32)) if h <= w else (int(h / w * 32), 32)
        clip = F.interpolate(clip.transpose(0, 1), size, mode="bilinear", align_corners=False)
        top, left = -((32 - size[0]) // 2), -((32 - size[1]) // 2)
        clip = clip[..., top : top + 32, left : left + 32].transpose(0, 1)
        with torch.no_grad():
            losses.append(float(F.cross_entropy(model(clip[None]), torch.tensor([int(label)]))))
    [line] = stats_of(Path(cfg.OUTPUT_DIR), "val_epoch")
    assert line["loss"] == pytest.approx(np.mean(losses), rel=2e-3)


@pytest.mark.parametrize("act", ["softmax", "sigmoid", "none"])
def test_losses_of_probabilities_are_those_of_logits(act):
    torch.manual_seed(0)
    logits, labels = 5 * torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = bce_logit if act == "sigmoid" else F.cross_entropy
    scores = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "none": logits}[act]
    ours = loss_of_scores(scores, labels, act, F.cross_entropy)
    torch.testing.assert_close(ours, loss(logits, labels), rtol=1e-4, atol=1e-5)


def test_lines_have_what_the_readers_of_pyslowfast_look_for(tiny_opts):
    """The keys that its meters write, and a json_stats.log of epochs alone."""
    more = ["JSON_STATS_STEPS", False, "LOG_PERIOD", 1, "SOLVER.MAX_EPOCH", 1]
    cfg = with_opts(tiny_opts, *more)
    run_test(cfg, run_train(cfg))
    folder = Path(cfg.OUTPUT_DIR)
    training = "dt dt_data dt_net epoch eta gpu_mem grad_norm loss lr top1_err top5_err"
    theirs = {
        "train_iter": f"{training} iter",
        "train_epoch": f"{training} RAM",
        "val_iter": "epoch eta gpu_mem iter time_diff top1_err top5_err",
        "val_epoch": "RAM epoch gpu_mem min_top1_err min_top5_err time_diff top1_err top5_err",
        "test_iter": "cur_iter eta split time_diff",
        "test_final": "split top1_acc top5_acc",
    }
    for kind, keys in theirs.items():
        lines = stats_of(folder, kind, "stdout.log")
        assert lines
        assert all(set(keys.split()) <= line.keys() for line in lines), kind
        assert bool(stats_of(folder, kind)) is not kind.endswith("_iter")
    [final] = stats_of(folder, "test_final")
    assert final["split"] == "test_final"
    assert all(isinstance(final[key], str) for key in ("top1_acc", "top5_acc"))
    assert stats_of(folder, "train_epoch")[0]["grad_norm"] > 0


@pytest.mark.parametrize("trouble", ["a file in the way", "a full disk"])
def test_a_run_does_without_tensorboard(tiny_opts, monkeypatch, trouble):
    from torch.utils.tensorboard import SummaryWriter

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cfg = with_opts(tiny_opts, "TENSORBOARD.ENABLE", True, "SOLVER.MAX_EPOCH", 1)
    folder = Path(cfg.OUTPUT_DIR)
    if trouble == "a full disk":
        monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    else:
        folder.mkdir()
        (folder / "runs-kinetics").write_text("")
    assert run_train(cfg).exists()
    assert (folder / "stdout.log").read_text().count("TensorBoard cannot write") == 1


def test_the_best_checkpoint_can_be_tested(tiny_opts):
    """The one that a validation found best is not the last: its weights are told apart."""
    more = ["SOLVER.MAX_EPOCH", 1, "TEST.NUM_ENSEMBLE_VIEWS", 1, "TEST.NUM_SPATIAL_CROPS", 1]
    cfg = with_opts(tiny_opts, *more)
    last = run_train(cfg)
    best = last.with_name("checkpoint_best.pyth")
    content = load_checkpoint(best)
    content["model_state"]["head.projection.bias"][5] = 1e4  # all are of class 5
    best.unlink()  # it shares its bytes with the last
    torch.save(content, best)
    for which, path in (("last", last), ("best", best)):
        run_test(with_opts(tiny_opts, *more, "TEST.CHECKPOINT", which), last)
        assert stats_of(Path(cfg.OUTPUT_DIR), "test_final")[-1]["checkpoint"] == str(path)
        rows = (Path(cfg.OUTPUT_DIR) / "predictions.csv").read_text().splitlines()[1:]
        assert (len({row.split(",")[2] for row in rows}) == 1) is (which == "best")
    best.unlink()
    with pytest.raises(UserError, match=r"TEST\.CHECKPOINT is best"):
        run_test(with_opts(tiny_opts, *more, "TEST.CHECKPOINT", "best"), last)


def test_a_test_leaves_the_configuration_of_a_training_run(tiny_opts):
    cfg = with_opts(tiny_opts, "SOLVER.MAX_EPOCH", 1)
    run_train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    test = with_opts(tiny_opts, "TRAIN.ENABLE", False, "TEST.NUM_ENSEMBLE_VIEWS", 1)
    run_test(test)
    assert load_cfg(folder / "config.yaml") == cfg
    assert load_cfg(folder / "config_test.yaml") == test


def test_a_finished_run_says_so(tiny_opts):
    cfg = with_opts(tiny_opts, "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False)
    assert launch(lambda: [cfg]) == 0
    log = Path(cfg.OUTPUT_DIR) / "stdout.log"
    before = log.read_text()
    assert before.count("Saved ") == 1  # a line an epoch, though two files are written
    assert launch(lambda: [cfg]) == 0
    told = log.read_text()[len(before) :]
    assert "there is nothing to train" in told
    assert "Resuming" not in told
    assert "Training done" not in told


def test_fine_tuning_at_a_lower_rate_is_no_reason_for_a_warning(tmp_path):
    opts = ["TRAIN.BATCH_SIZE", "8", "SOLVER.BASE_LR", "0.0025", "NUM_GPUS", "1"]
    path = ROOT / "configs/Kinetics/I3D_8x8_R50.yaml"

    def warning_of(cfg):
        return describe_scaling(cfg, Processes.of(cfg))[1]

    tuned = [*opts, "TRAIN.CHECKPOINT_FILE_PATH", "weights.pyth"]
    assert warning_of(load_cfg(path, opts)) is not None
    assert warning_of(load_cfg(path, tuned)) is None
    assert warning_of(load_cfg(path, [*tuned, "SOLVER.BASE_LR", "0.1"])) is not None


@pytest.mark.parametrize(("cores", "asked"), [(1, False), (64, True)])
def test_more_loader_processes_are_advised_where_there_are_cores(
    tiny_opts, monkeypatch, cores, asked
):
    monkeypatch.setattr(train_log, "usable_cores", lambda: cores)
    cfg = with_opts(tiny_opts, "SOLVER.MAX_EPOCH", 1)
    trainer = build_trainer(cfg, start_run(cfg))
    trainer.start()
    times = {"dt": 1.0, "dt_data": 0.5, "dt_net": 0.5, "loader_bound": 50.0}
    for _ in range(2):
        trainer.log.log_epoch({"loss": 1.0, "top1_err": 50.0, **times}, num_workers=1)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert log.count("loader-bound: 50 %") == 1
    assert ("DATA_LOADER.NUM_WORKERS" in log) is asked
