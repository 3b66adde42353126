"""A second training in one folder: refused while the first lives, and not a moment longer."""

import errno
import json
import logging
import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from octvideo.distributed import run_lock
from octvideo.distributed.run_lock import LOCK_FILE, training_lock
from octvideo.utils.errors import UserError

CONTEXT = multiprocessing.get_context("forkserver")


def _hold(folder: Path) -> None:
    with training_lock(folder):
        if os.fork() == 0:  # a worker, which outlives it
            time.sleep(30)
            os._exit(0)
        (folder / "held").touch()
        time.sleep(30)


@contextmanager
def held(folder: Path) -> Iterator[multiprocessing.Process]:
    process = CONTEXT.Process(target=_hold, args=(folder,))
    process.start()
    while not (folder / "held").exists():
        assert process.is_alive()
        time.sleep(0.02)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    with held(tmp_path) as process:
        refused = pytest.raises(UserError, match=f"process {process.pid} on .*wait for it, stop it")
        with refused, training_lock(tmp_path):
            pytest.fail("two trainings")
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == process.pid
        process.kill()
        process.join()
        with training_lock(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_it_waits_for_one_that_is_about_to_end(tmp_path):
    with held(tmp_path) as process:
        process.kill()  # and not joined
        with training_lock(tmp_path):
            pass


def test_a_lock_of_another_machine_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    with held(tmp_path), caplog.at_level(logging.WARNING, "octvideo"):
        monkeypatch.setattr(run_lock, "_boot", lambda: "another")
        with training_lock(tmp_path):
            assert "may be training in OUTPUT_DIR" in caplog.text


def test_a_lock_without_a_name_is_one(tmp_path, monkeypatch):
    """It is held, but the disk was full when its holder was to write who it is."""
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    with held(tmp_path):
        (tmp_path / LOCK_FILE).write_text("")
        refused = pytest.raises(UserError, match=re.escape(str(tmp_path / LOCK_FILE)))
        with refused, training_lock(tmp_path):
            pytest.fail("two trainings")


def test_a_folder_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def lockf(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock.fcntl, "lockf", lockf)
    with caplog.at_level(logging.WARNING, "octvideo"), training_lock(tmp_path):
        assert f"OUTPUT_DIR {tmp_path} cannot be locked (No locks available)" in caplog.text
