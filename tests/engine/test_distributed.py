"""Runs of several processes against runs of one: losses, weights, validation and test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from octvideo.config import load_cfg
from octvideo.engine import load_checkpoint, run_test, run_train, train
from processes import run_processes
from support import ROOT

EXACT = ["MODEL.DROPOUT_RATE", 0, "BN.NORM_TYPE", "sync_batchnorm", "LOG_PERIOD", 1]
EXACT += ["TRAIN.BATCH_SIZE", 8, "SOLVER.MAX_EPOCH", 4, "TEST.SAVE_RESULTS_PATH", "scores.npz"]


def whole_run(rank: int, opts: list[str], folder: Path) -> dict:
    """Trains and tests as one of several processes; what the log and the files hold.

    In float64: in float32 a ReLU or a maximum falls to the other side now and then by rounding.
    """
    torch.set_default_dtype(torch.float64)
    to_device = train.Trainer._to_device
    train.Trainer._to_device = lambda self, batch: _in_float64(*to_device(self, batch))
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*opts, "OUTPUT_DIR", str(folder)])
    log, write = [], train.log_json_stats
    train.log_json_stats = lambda stats, output_dir: (log.append(stats), write(stats, output_dir))
    path = run_train(cfg)
    return {"log": log, "path": path, "test": run_test(cfg, path)}


def _in_float64(video: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return video.double(), labels


def compared(tmp_path: Path, worlds: tuple[int, ...], opts: list) -> list[list[dict]]:
    """The outcome of each process, for each number of processes."""
    return [
        run_processes(
            whole_run,
            size,
            tmp_path / f"processes-{size}",
            [str(word) for word in opts],
            tmp_path / f"of-{size}",
            timeout=200,
        )
        for size in worlds
    ]


def of_kind(outcome: dict, kind: str, key: str) -> list[float]:
    return [stats[key] for stats in outcome["log"] if stats["_type"] == kind]


VARIANTS = {
    "octave": ["OCTAVE.ENABLE", True],
    "vanilla, in parts, with an average, recomputed": [
        *("OCTAVE.ENABLE", False, "TRAIN.ACCUMULATE_STEPS", 2, "MODEL.ACT_CHECKPOINT", True),
        *("EMA.ENABLE", True, "EMA.DECAY", 0.9, "SOLVER.CLIP_GRAD_L2NORM", 1.0),
    ],
}


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_with_half_of_the_batch_are_one(tiny_opts, tmp_path, name):
    """12 steps of 8 clips, precise batch norm, validation, and a test of 6 views."""
    [one], two = compared(tmp_path, (1, 2), [*tiny_opts, *EXACT, *VARIANTS[name]])
    for key in ("loss", "grad_norm", "lr"):
        want = of_kind(one, "train_iter", key)
        assert len(want) == 12
        for outcome in two:
            assert of_kind(outcome, "train_iter", key) == pytest.approx(want, abs=1e-8), key
    for kind, key in (("train_epoch", "loss"), ("val_epoch", "top1_err")):
        assert of_kind(two[0], kind, key) == pytest.approx(of_kind(one, kind, key), abs=1e-8)
    assert of_kind(two[0], "val_epoch", "num_videos") == [8] * 4
    assert one["path"].name == two[0]["path"].name == two[1]["path"].name
    want, got = (load_checkpoint(outcome["path"]) for outcome in (one, two[0]))
    for kind in ("model_state", "ema_state"):
        state = want.get(kind, {})
        assert got.get(kind, {}).keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(got[kind][key], value, rtol=1e-7, atol=1e-8, msg=key)
    assert two[1]["test"] == {}
    assert two[0]["test"] == pytest.approx(one["test"])
    tables = [np.load(tmp_path / f"of-{size}/scores.npz") for size in (1, 2)]
    np.testing.assert_allclose(tables[1]["scores"], tables[0]["scores"], atol=1e-6)
    assert (tmp_path / "of-2/json_stats.log").read_text().count("train_iter") == 12
