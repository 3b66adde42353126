"""The processes that a run starts on its own machine: how they end, together."""

import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from octvideo.distributed import local_processes
from octvideo.distributed.launcher import _address
from octvideo.utils.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def _end(status: int, seconds: float) -> int:
    time.sleep(seconds)
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


def _sleep(seconds: float) -> int:
    time.sleep(seconds)
    return 1


def _wait_for_a_signal(folder: Path, number: int) -> int:
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
    (folder / str(number)).touch()
    time.sleep(100)
    return 1


def test_all_end_well():
    assert local_processes.run_processes([partial(_end, 0, 0.0), partial(_end, 0, 0.2)]) == 0


def test_the_others_end_with_one_that_fails(monkeypatch):
    monkeypatch.setattr(local_processes, "GRACE", 1.0)
    begin = time.monotonic()
    assert local_processes.run_processes([partial(_end, 0, 100.0), partial(_end, 2, 0.0)]) == 2
    assert time.monotonic() - begin < 60


def test_one_that_was_killed_is_named(monkeypatch, caplog):
    monkeypatch.setattr(local_processes, "GRACE", 1.0)
    with caplog.at_level(logging.ERROR, "octvideo"):
        assert (
            local_processes.run_processes(
                [partial(_end, 0, 100.0), partial(_end, -signal.SIGKILL, 0.0)]
            )
            == 3
        )
    assert "process 1 of 2 was ended by SIGKILL" in caplog.text


def test_a_signal_goes_to_all(tmp_path):
    def send() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    thread = threading.Thread(target=send)
    thread.start()
    assert (
        local_processes.run_processes(
            [partial(_wait_for_a_signal, tmp_path, 0), partial(_wait_for_a_signal, tmp_path, 1)]
        )
        == 75
    )
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 143)])
def test_a_signal_while_they_start(monkeypatch, signum, status):
    """Which takes them seconds: they import torch before they can do anything about signals."""
    watch = local_processes._watch

    def send_and_watch(*args):
        os.kill(os.getpid(), signum)
        return watch(*args)

    monkeypatch.setattr(local_processes, "_watch", send_and_watch)
    begin = time.monotonic()
    assert local_processes.run_processes([partial(_sleep, 100.0), partial(_sleep, 100.0)]) == status
    assert time.monotonic() - begin < 90
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_the_address_of_the_first_node():
    assert _address("tcp://10.0.0.7:4321", 2) == ("10.0.0.7", 4321)
    assert _address("tcp://[fe80::1]:4321", 2) == ("fe80::1", 4321)
    assert _address(None, 2) == ("localhost", 9999)
    assert _address(None, 1)[1] not in (0, 9999)  # nobody else's
    with pytest.raises(UserError, match="expected tcp://HOST:PORT"):
        _address("file:///tmp/x", 2)
