"""The processes of one node, started and watched by the first: where there is no launcher."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

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
    for process in processes:
        process.start()
    handlers = {}
    for name in _FORWARDED:
        signum = getattr(signal, name, None)
        if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
            handlers[signum] = signal.signal(signum, _forward(processes))
    try:
        return _watch(processes)
    finally:
        for process in processes:
            process.kill()
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _forward(processes: Sequence[BaseProcess]) -> Callable[[int, Any], None]:
    def handler(signum: int, _frame: Any) -> None:
        # A terminal sends Ctrl-C and its own end to the whole group.
        if signum in (signal.SIGINT, getattr(signal, "SIGHUP", None)) and sys.stdin.isatty():
            return
        for process in processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signum)

    return handler


def _watch(processes: Sequence[BaseProcess]) -> int:
    status, deadline = 0, float("inf")
    while running := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in running], timeout=1.0)
        for process in running:
            if process.exitcode and not status:
                status = process.exitcode
                deadline = time.monotonic() + GRACE
                if status < 0:
                    name = signal.Signals(-status).name
                    logger.error("%s of %d was ended by %s", process.name, len(processes), name)
        if time.monotonic() > deadline:
            for process in running:
                process.kill()
    return status if status >= 0 else 3


def _main(function: Callable[..., int], args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(function(*args))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
