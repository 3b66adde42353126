"""Starts and watches the processes of one node where there is no launcher."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from octvideo.distributed.signals import leave_when_preempted

logger = logging.getLogger("octvideo")

GRACE = 30.0  # seconds that the others get when one has failed

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


def run_processes(functions: Sequence[Callable[[], int]]) -> int:
    """Runs each function in a process of its own; returns the first exit status that is not 0.

    The functions must be picklable. Signals that ask for an end are passed on to all processes,
    and this process waits for them to finish.
    """
    context = multiprocessing.get_context("spawn")  # a fork would break CUDA
    processes: list[BaseProcess] = [
        context.Process(target=_main, args=(function,), name=f"process {number}")
        for number, function in enumerate(functions)
    ]
    received: list[int] = []
    handlers = {}
    # A signal waits until the processes, which inherit this mask, know what to do with it.
    _mask_preemption(signal.SIG_BLOCK)
    try:
        for process in processes:
            process.start()
        for name in _FORWARDED:
            signum = getattr(signal, name, None)
            if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
                handlers[signum] = signal.signal(signum, _forward(processes, received))
        _mask_preemption(signal.SIG_UNBLOCK)
        return _watch(processes, received)
    finally:
        for process in processes:
            if process.pid:
                process.kill()
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        _mask_preemption(signal.SIG_UNBLOCK)


def _mask_preemption(how: int) -> None:
    if hasattr(signal, "pthread_sigmask") and hasattr(signal, "SIGUSR1"):
        signal.pthread_sigmask(how, {signal.SIGUSR1})


def _forward(
    processes: Sequence[BaseProcess], received: list[int]
) -> Callable[[int, FrameType | None], None]:
    def handler(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)
        # A terminal sends Ctrl-C and its own end to the whole group.
        if signum in (signal.SIGINT, getattr(signal, "SIGHUP", None)) and sys.stdin.isatty():
            return
        for process in processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signum)

    return handler


def _watch(processes: Sequence[BaseProcess], received: Collection[int]) -> int:
    status, deadline, running = 0, float("inf"), list(processes)
    while running:
        wait([process.sentinel for process in running], timeout=1.0)
        ended = [process for process in running if process.exitcode is not None]
        running = [process for process in running if process not in ended]
        for process in ended:
            if process.exitcode and not status:
                status = process.exitcode
                deadline = time.monotonic() + GRACE
                if -status in received:  # while it had nothing to save yet
                    status = 128 - status
                elif status < 0:
                    name = signal.Signals(-status).name
                    logger.error("%s of %d was ended by %s", process.name, len(processes), name)
        if time.monotonic() > deadline:
            for process in running:
                process.kill()
    return status if status >= 0 else 3


def _main(function: Callable[[], int]) -> None:
    leave_when_preempted()  # and no longer blocks the signal
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(function())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
