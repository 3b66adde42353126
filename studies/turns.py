"""Measures the CPU time of several variants that take turns, each in a process of its own.

In separate processes, variants share neither caches nor the memory that the C library keeps.
"""

import multiprocessing
import resource
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from typing import Any

import torch

# Called once, in the variant's process (so it can be pickled); returns what is timed.
Setup = Callable[[], Callable[[], Any]]


def in_turns(setups: Mapping[str, Setup], rounds: int, units: int) -> dict[str, list[float]]:
    """Returns the CPU seconds per unit of each variant in each round, after a warm-up round.

    The time includes the variant's process and every process that it has started and that has
    ended; torch has one thread. units: clips or videos in a call.

    Raises:
        RuntimeError: a variant's process has failed (its traceback is on standard error).
    """
    context, start = multiprocessing.get_context("spawn"), multiprocessing.get_start_method()
    times: dict[str, list[float]] = {name: [] for name in setups}
    with ExitStack() as stack:
        pipes = {}
        for name, setup in setups.items():
            pipe, other_end = context.Pipe()
            process = context.Process(target=_serve, args=(other_end, setup, start))
            process.start()
            other_end.close()
            stack.callback(process.join)
            pipes[name] = stack.enter_context(closing(pipe))  # closed first, which ends it
        for n in range(rounds + 1):
            for name, pipe in pipes.items():
                try:
                    pipe.send(True)
                    seconds = pipe.recv()
                except (EOFError, ConnectionError) as error:
                    raise RuntimeError(f"the process of {name!r} has failed") from error
                if n:
                    times[name].append(seconds / units)
    return times


def _serve(pipe: Connection, setup: Setup, start_method: str) -> None:
    # Processes that a variant starts are started as elsewhere, not as this one.
    multiprocessing.set_start_method(start_method, force=True)
    torch.set_num_threads(1)
    run = setup()
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        start = _cpu_seconds()
        run()
        pipe.send(_cpu_seconds() - start)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)
