"""Subjects of a benchmark, each in a process of its own, which answer in turns.

So that all meet the same machine, and none finds the caches or the memory of another.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any
from typing import Protocol as Structure

import torch

from octvideo.utils.errors import UserError


class Subject(Structure):
    """What is measured; it is sent to its process."""

    @property
    def threads(self) -> int:
        """CPU threads of torch."""
        ...

    def begin(self) -> Callable[[str], Any]:
        """Returns, in its process, the function that answers questions."""
        ...


@contextmanager
def process(subject: Subject) -> Iterator[Callable[[str], Any]]:
    """Yields a function that asks the process of a subject something, and returns its answer.

    Raises:
        UserError: (the function) the process failed; the message has its error.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=_work, args=(there, subject), daemon=True)
    worker.start()
    there.close()

    def ask(what: str) -> Any:
        try:
            here.send(what)
            answer = here.recv()
        except (EOFError, ConnectionError) as error:
            worker.join()
            reason = f"the process of {subject} ended with status {worker.exitcode}"
            raise UserError(f"{reason}: was there memory enough?") from error
        if isinstance(answer, str):
            raise UserError(f"{subject}: {answer}")
        return answer

    try:
        yield ask
    finally:
        here.close()
        worker.terminate()
        worker.join()


def _work(pipe: Connection, subject: Subject) -> None:
    """Runs in the process: receives questions, and sends answers, or an error as a text."""
    torch.set_num_threads(subject.threads)
    answer: Callable[[str], Any] | None = None
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        try:
            answer = answer or subject.begin()
            pipe.send(answer(what))
        except (RuntimeError, ValueError, ImportError) as error:  # out of memory, no compiler ...
            pipe.send(f"{type(error).__name__}: {error}")
