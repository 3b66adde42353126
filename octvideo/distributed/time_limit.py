"""Time limits for calls that have none and that no signal interrupts.

A client of a TCPStore waits for an answer for ever where the process that has the store is frozen,
or where its node has vanished without closing the connection.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def ask(question: Callable[[], T], seconds: float) -> T:
    """Returns ``question()``, called in a thread that is given up after ``seconds``.

    What it asked can be used for nothing more then: the thread may hold a lock.

    Raises:
        TimeoutError: there is no answer yet; or what ``question`` raises.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((question(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    answer, error = outcome[0]
    if error is not None:
        raise error
    return answer  # type: ignore[no-any-return]


@contextmanager
def end_process_after(seconds: float, status: int, message: str) -> Iterator[None]:
    """Ends this process with ``status`` where the context takes longer than ``seconds``.

    For calls that must be made by the main thread.
    """

    def end() -> None:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
        os._exit(status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
