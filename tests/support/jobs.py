"""Runs of several processes, started as users start them; nothing of them outlives the test."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from octvideo.engine import load_checkpoint
from octvideo.engine.checkpoint import list_checkpoints
from support import ROOT

RUN_NET = str(ROOT / "tools/run_net.py")
CFG = str(ROOT / "configs/Synthetic/OCT_I3D.yaml")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@contextmanager
def started(*commands: Sequence[str]) -> Iterator[list[subprocess.Popen]]:
    """The commands side by side, each in a session of its own that ends with the context."""
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRON,
            start_new_session=True,
        )
        for command in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            for pid in [*descendants(process.pid), process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.stdout.close()
            process.wait(timeout=30)


def results(processes: Sequence[subprocess.Popen], timeout: float) -> list[tuple[int, str]]:
    """Status and output of each, when all have ended."""
    deadline = time.monotonic() + timeout
    outputs = [process.communicate(timeout=deadline - time.monotonic())[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, outputs, strict=True)]


def children(pid: int) -> list[int]:
    """The living processes that ``pid`` has started, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has just ended
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    return [p for child in children(pid) for p in [child, *descendants(child)]]


def wait_for_steps(folder: Path, count: int, timeout: float = 120) -> None:
    """Until the log has ``count`` train_iter lines."""
    log, deadline = folder / "json_stats.log", time.monotonic() + timeout
    while not (log.exists() and log.read_text().count("train_iter") >= count):
        assert time.monotonic() < deadline, "no step in time"
        time.sleep(0.02)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    newest = list_checkpoints(folder / "checkpoints")[-1]
    assert newest.name == "checkpoint_epoch_00008.pyth"  # of a finished run
    return load_checkpoint(newest)["model_state"]


def assert_same_weights(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
