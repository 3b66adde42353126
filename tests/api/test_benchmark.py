"""tools/benchmark.py model and train: what the rows say, not how fast this machine is."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from octvideo import create_model
from octvideo.api import turns
from octvideo.api.benchmark import Subject, benchmark_models, format_model_rows
from octvideo.utils.complexity import count
from octvideo.utils.errors import UserError
from support import ROOT
from support.trainers import CONTEXT

KEYS = {
    *("model", "alpha", "variant", "device", "dtype", "threads", "batch", "macs", "median_ms"),
    *("spread_ms", "peak_mb", "speedup", "theoretical", "realised", "mode", "size", "stages"),
    *("channel_divisor", "clips_per_s"),
}


@pytest.fixture(autouse=True)
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks the processes from a server that has imported torch; only the command spawns them."""
    cheap = SimpleNamespace(get_context=lambda kind: CONTEXT)
    monkeypatch.setattr("octvideo.api.turns.multiprocessing", cheap)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_rows(training: bool) -> None:
    rows = benchmark_models(["i3d_r18"], [0.5], rounds=2, training=training, size=32, batch=2)
    assert all(set(row) == KEYS for row in rows)
    assert [(r["variant"], r["alpha"]) for r in rows] == [
        *(("conv3d_eager", 0.0), ("ours", 0.0), ("ours", 0.5))
    ]
    eager, vanilla, octave = rows
    model = create_model("i3d_r18", octave_alpha=0.5, octave_stages=(2, 3, 4))
    assert octave["macs"] == count(model, (1, 3, 8, 32, 32)).macs < vanilla["macs"]
    assert octave["theoretical"] == round(vanilla["macs"] / octave["macs"], 3)
    assert eager["speedup"] == vanilla["realised"] == vanilla["theoretical"] == 1
    assert all(row["median_ms"] > 0 and row["peak_mb"] > 0 for row in rows)
    assert octave["clips_per_s"] == pytest.approx(2000 / octave["median_ms"], rel=0.01)
    assert format_model_rows(rows).count("\n") == 4


@pytest.mark.timeout(120)
@pytest.mark.parametrize("training", [False, True])
def test_image_networks(training: bool) -> None:
    (row,) = benchmark_models(["resnet26_v2"], [], ["ours"], 1, training=training, size=32, batch=2)
    assert row["macs"] == count(create_model("resnet26_v2"), (1, 3, 32, 32)).macs
    assert row["median_ms"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ["fast"]}, "unknown variant fast; known: conv3d_eager"),
        ({"device": "cuda"}, "there is no CUDA device"),
        ({"channel_divisor": 0}, "channel divisor must be at least 1"),
    ],
)
def test_errors(options: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        benchmark_models(["i3d_r18"], [0.5], rounds=1, size=32, **options)


@pytest.mark.timeout(60)
def test_a_step_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octvideo.api.turns._work", _fail)
    with pytest.raises(UserError, match="ValueError: no such loss"):
        benchmark_models(["resnet26_v2"], [], ["ours"], 1, training=True, size=32)


def _fail(pipe: object, subject: Subject) -> None:
    """Runs in a process of its own, whose modules nobody else sees."""

    def loss(*_: object) -> None:
        raise ValueError("no such loss")

    torch.nn.functional.cross_entropy = loss
    turns._work(pipe, subject)


def test_a_process_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octvideo.api.turns._work", _die)
    with pytest.raises(UserError, match=r"ended with status 3: was there memory enough\?"):
        benchmark_models(["i3d_r18"], [], rounds=1, size=32)


def _die(_pipe: object, _subject: Subject) -> None:
    sys.exit(3)


@pytest.mark.slow
def test_command_line() -> None:
    command = "model i3d_r18 --alphas --variants ours --size 32 --rounds 1 --json"
    out = subprocess.run(
        [sys.executable, ROOT / "tools" / "benchmark.py", *command.split()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    (row,) = json.loads(out)
    assert (row["model"], row["speedup"], row["mode"]) == ("i3d_r18", None, "inference")
