"""The processes of one node, started and watched by the first: where there is no launcher."""

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
from typing import Any

from octvideo.distributed.signals import leave_when_preempted

logger = logging.getLogger("octvideo")

GRACE = 30.0  # seconds that the others have when one has ended with an error

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


def run_processes(function: Callable[..., int], arguments: Sequence[tuple[Any, ...]]) -> int:
    """Calls ``function`` in one process for each tuple; the first exit status that is not 0.

    Signals that ask for an end go to all of them, and this process waits for theirs.
    """
    context = multiprocessing.get_context("spawn")  # a fork would break CUDA
    processes: list[BaseProcess] = [
        context.Process(target=_main, args=(function, args), name=f"process {number}")
        for number, args in enumerate(arguments)
    ]
    asked: list[int] = []
    handlers = {}
    # It waits until the processes know what to do with it, which they inherit.
    _mask_preemption(signal.SIG_BLOCK)
    try:
        for process in processes:
            process.start()
        for name in _FORWARDED:
            signum = getattr(signal, name, None)
            if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
                handlers[signum] = signal.signal(signum, _forward(processes, asked))
        _mask_preemption(signal.SIG_UNBLOCK)
        return _watch(processes, asked)
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


def _forward(processes: Sequence[BaseProcess], asked: list[int]) -> Callable[[int, Any], None]:
    def handler(signum: int, _frame: Any) -> None:
        asked.append(signum)
        # A terminal sends Ctrl-C and its own end to the whole group.
        if signum in (signal.SIGINT, getattr(signal, "SIGHUP", None)) and sys.stdin.isatty():
            return
        for process in processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signum)

    return handler


def _watch(processes: Sequence[BaseProcess], asked: Collection[int]) -> int:
    status, deadline, running = 0, float("inf"), list(processes)
    while running:
        wait([process.sentinel for process in running], timeout=1.0)
        ended = [process for process in running if process.exitcode is not None]
        running = [process for process in running if process not in ended]
        for process in ended:
            if process.exitcode and not status:
                status = process.exitcode
                deadline = time.monotonic() + GRACE
                if -status in asked:  # while it had nothing to save yet
                    status = 128 - status
                elif status < 0:
                    name = signal.Signals(-status).name
                    logger.error("%s of %d was ended by %s", process.name, len(processes), name)
        if time.monotonic() > deadline:
            for process in running:
                process.kill()
    return status if status >= 0 else 3


def _main(function: Callable[..., int], args: tuple[Any, ...]) -> None:
    leave_when_preempted()  # and no longer blocks the signal
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(function(*args))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
