"""Works on many items in processes that may hang or die, and names the item that did it."""

import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


Context = ForkServerContext | SpawnContext


@dataclass(frozen=True)
class Failure:
    """Takes the place of a result, and says why there is none."""

    reason: str


def how_it_ended(exitcode: int | None) -> str:
    """Says by which signal, or with which status, a process ended."""
    if exitcode is not None and exitcode < 0:
        return f"the process ended by {signal.Signals(-exitcode).name}"
    return f"the process ended with status {exitcode}"


def run_guarded(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_workers: int,
    timeout: float,
    preload: Iterable[str] = (),
) -> Iterator[tuple[int, Result | Failure]]:
    """Yields (index, result) of every item, in the order in which they finish.

    An item that takes longer than ``timeout`` seconds, or kills its process, gives a `Failure`; a
    new process continues with the next item.

    Args:
        function: takes one item; importable by its module. Items and results are pickled.
        preload: modules that the processes start with, so that a new one is ready at once.

    Raises:
        RuntimeError: a process died before it could take an item.
    """
    context = _context(preload)
    queue = iter(enumerate(items))
    workers = [_Worker(context, function) for _ in range(max(1, min(num_workers, len(items))))]
    try:
        while workers:
            nearest = min(worker.deadline for worker in workers) - time.monotonic()
            ready = wait([worker.pipe for worker in workers], min(max(nearest, 0.0), 60.0))
            for worker in list(workers):
                if worker.pipe in ready:
                    result = worker.receive()
                elif time.monotonic() > worker.deadline:
                    result = _Ended(f"gave up after {timeout:g} seconds")
                else:
                    continue
                index = worker.index
                if isinstance(result, _Ended):
                    if index is None:
                        raise RuntimeError(f"a worker could not start: {result.reason}")
                    worker.stop()
                    workers[workers.index(worker)] = _Worker(context, function)
                elif (task := next(queue, None)) is not None:
                    worker.give(*task, timeout)
                else:
                    worker.stop()
                    workers.remove(worker)
                if index is not None:
                    yield index, result
    finally:
        for worker in workers:
            worker.stop()


class _Ended(Failure):
    """The process has ended, or must be ended."""


class _Worker(Generic[Item, Result]):
    """A process, and the index of its item: None while the process starts."""

    def __init__(self, context: Context, function: Callable[[Item], Result]) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.index: int | None = None
        self.deadline = math.inf

    def give(self, index: int, item: Item, timeout: float) -> None:
        self.index, self.deadline = index, time.monotonic() + timeout
        self.pipe.send(item)

    def receive(self) -> Result | Failure:
        try:
            received: Result = self.pipe.recv()
            return received
        except (EOFError, OSError):
            self.process.join(10)
            return _Ended(how_it_ended(self.process.exitcode))

    def stop(self) -> None:
        self.process.kill()  # a decoder in an endless loop is deaf to anything less
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[[Item], Result]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to deal with
    result: Result | None = None  # the first message says that the process is ready
    while True:
        try:
            pipe.send(result)
            item = pipe.recv()
        except (EOFError, OSError):  # the parent has gone
            return
        result = function(item)


def _context(preload: Iterable[str]) -> Context:
    # A fork server: quick new processes without the threads and locks of this one.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    return context
