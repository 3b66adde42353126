"""Loaders whose workers hang, crash or are killed on a video: it is left out, nothing else is."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from octvideo.config import load_cfg
from octvideo.data import build_test_loader, build_train_loader, build_val_loader
from octvideo.data.crash_safe_loader import VideoLoader, Watch
from octvideo.data.read.video import VideoError, VideoReader
from octvideo.data.sources import videos as reader_module
from octvideo.data.synthetic.videos import write_video
from octvideo.utils.errors import UserError
from support import ROOT

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's signals"),
]

REASONS = {"hang": "gave up after 3 seconds", "crash": "the process ended by SIGSEGV"}
REASONS["leave"] = "the process ended with status 7"
BUILDERS = {"train": build_train_loader, "val": build_val_loader, "test": build_test_loader}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    names = ["a", "b", "hang", "c", "d", "crash", "e", "leave", "f", "g"]
    for name in names:
        frames = rng.integers(0, 256, (12, 36, 48, 3), dtype=np.uint8)
        write_video(root / f"{name}.mp4", frames, fps=30)
    for split in BUILDERS:
        rows = [f"{root / name}.mp4 {n}" for n, name in enumerate(names)]
        (root / f"{split}.csv").write_text("\n".join(rows))
    return root


def options(folder: Path, workers: int) -> list[str]:
    values = {
        "NUM_GPUS": 0,
        "MODEL.ARCH": "i3d",
        "MODEL.MODEL_NAME": "ResNet",
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 2,
        "DATA.TRAIN_JITTER_SCALES": [34, 40],
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "DATA.DECODE_TIMEOUT": 3.0,
        "DATA_LOADER.NUM_WORKERS": workers,
        "MODEL.NUM_CLASSES": 10,
        "TRAIN.BATCH_SIZE": 2,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
    }
    return [str(word) for pair in values.items() for word in pair]


def loader_of(folder: Path, split: str, workers: int) -> VideoLoader:
    return BUILDERS[split](load_cfg(None, options(folder, workers)))


class Unreadable(VideoReader):
    """What the loaders should make of such files."""

    def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
        if reason := REASONS.get(Path(path).stem):
            raise VideoError(path, reason)
        super().__init__(path, *args, **kwargs)


class Dangerous(VideoReader):
    """A decoder that ends its process, or does not end."""

    def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
        if "hang" in path:
            re.match("(a+)+$", "a" * 60 + "b")  # years, in C: no Python signal handler runs
        if "crash" in path:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "leave" in path:
            os._exit(7)
        super().__init__(path, *args, **kwargs)


@pytest.fixture
def impatient(monkeypatch):
    """torch looks for dead workers every half second instead of every five."""
    get = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(get, "__defaults__", (0.5,))


def read_all(loader: VideoLoader, epochs: int) -> list[dict[str, Any]]:
    batches = []
    for epoch in range(epochs):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            same = torch.equal(value, b[key]) if torch.is_tensor(value) else value == b[key]
            assert same, key


@pytest.mark.slow  # waits for time limits
@pytest.mark.parametrize("split", BUILDERS)
def test_what_ends_a_worker_is_an_unreadable_video(folder, split, impatient, monkeypatch, caplog):
    monkeypatch.setattr(reader_module, "VideoReader", Unreadable)
    wanted = read_all(loader_of(folder, split, 0), epochs=2)
    monkeypatch.setattr(reader_module, "VideoReader", Dangerous)
    loader = loader_of(folder, split, 2)
    with caplog.at_level(logging.INFO, "octvideo"):
        got = read_all(loader, epochs=2)
    assert_same(got, wanted)
    bad = {Path(path).stem: reason for batch in got for path, reason in batch["bad"]}
    assert bad == REASONS
    assert caplog.text.count("read once more") == 3


def test_a_second_chance_in_every_epoch(folder, impatient, monkeypatch, tmp_path):
    """A worker that the system has killed says nothing of the video that it was reading."""
    once = tmp_path / "once"
    wanted = read_all(loader_of(folder, "train", 0), epochs=2)

    class Killed(VideoReader):
        def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
            if "crash" in path and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            super().__init__(path, *args, **kwargs)

    monkeypatch.setattr(reader_module, "VideoReader", Killed)
    loader, got = loader_of(folder, "train", 2), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        got += list(loader)
        once.unlink()
    assert_same(got, wanted)


def test_workers_killed_between_batches(folder, impatient):
    """Also where the main thread is busy: no error reaches it from the signal of a dead child.

    Not even where torch's own loader has had its handler installed before.
    """
    list(DataLoader(range(2), num_workers=1))
    wanted = read_all(loader_of(folder, "train", 0), epochs=2)
    loader, got = loader_of(folder, "train", 2), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            got.append(batch)
            if len(got) in (2, 6):
                for worker in loader._loader._iterator._workers:
                    os.kill(worker.pid, signal.SIGKILL)
                time.sleep(0.3)
    assert_same(got, wanted)


def test_workers_that_die_without_a_video_end_the_run(folder, impatient, monkeypatch):
    def collate(items):
        os._exit(9)

    monkeypatch.setattr("octvideo.data.loader.collate_clips", collate)
    with pytest.raises(UserError, match=r"one after another.*status 9.*NUM_WORKERS"):
        list(loader_of(folder, "train", 2))


def test_errors_of_our_own_are_not_taken_for_dead_workers(folder, monkeypatch):
    class Faulty(VideoReader):
        def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("a fault in the program")

    monkeypatch.setattr(reader_module, "VideoReader", Faulty)
    with pytest.raises(RuntimeError, match="a fault in the program"):
        list(loader_of(folder, "val", 2))


@pytest.mark.slow
def test_the_limit_is_for_one_video_not_for_many(folder, monkeypatch):
    class Slow(VideoReader):
        def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
            time.sleep(0.4)
            super().__init__(path, *args, **kwargs)

    monkeypatch.setattr(reader_module, "VideoReader", Slow)
    batches = read_all(loader_of(folder, "train", 1), epochs=1)
    assert sum(len(batch["bad"]) for batch in batches) == 0


def test_the_main_process_has_no_limit(folder):
    watch = Watch(0, timeout=0.05)
    with watch.reading(3, "x.mp4"):
        time.sleep(0.2)
    assert watch.video_of(0) is None
    watch.lost["x.mp4"] = "hangs"
    with pytest.raises(VideoError, match="hangs"), watch.reading(3, "x.mp4"):
        pass


ORPHANS = """
import re, sys, time
from octvideo.config import load_cfg
from octvideo.data import build_train_loader
from octvideo.data.sources import videos as reader
class Hanging(reader.VideoReader):
    def __init__(self, path, *args, **kwargs):
        if "hang" in path:
            re.match("(a+)+$", "a" * 60 + "b")
        super().__init__(path, *args, **kwargs)
reader.VideoReader = Hanging
loader = build_train_loader(load_cfg(None, sys.argv[1:]))
batches = iter(loader)
next(batches)
print(*[w.pid for w in loader._loader._iterator._workers], flush=True)
time.sleep(600)
"""


@pytest.mark.slow  # torch's workers look for their parent every five seconds
def test_workers_leave_when_the_main_process_is_killed(folder):
    """Also the one that hangs in a decoder."""
    command = [sys.executable, "-c", ORPHANS, *options(folder, 2)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    main = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    pids = [int(pid) for pid in main.stdout.readline().split()]
    assert len(pids) == 2
    main.kill()
    main.wait()
    deadline = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
