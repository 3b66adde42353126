"""Time limits for calls that have none and that no signal interrupts.

The client of a TCPStore waits forever for an answer if the process that owns the store is frozen,
or if its node has vanished without closing the connection.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class TimedCalls:
    """Within the context, makes calls in one thread, which is abandoned if a call hangs.

    What an abandoned thread was using must not be used again: it may hold a lock.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def __enter__(self) -> "TimedCalls":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def ask(self, question: Callable[[], T], seconds: float) -> T:
        """Returns ``question()``, or raises what it raises.

        Raises:
            TimeoutError: there is no answer after ``seconds``.
        """
        answer: Future[T] = Future()

        def call() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:  # noqa: BLE001 - ``result`` raises it
                answer.set_exception(error)

        self._calls.put(call)
        if not wait([answer], seconds).done:
            raise TimeoutError(f"no answer within {seconds:g} s")
        return answer.result()


@contextmanager
def end_process_after(seconds: float, status: int, message: str) -> Iterator[None]:
    """Ends this process with ``status`` if the context takes longer than ``seconds``.

    For calls that the main thread has to make.
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
