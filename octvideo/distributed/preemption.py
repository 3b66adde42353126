"""Stops a run between two steps when it is asked to end, all of its processes at the same one."""

import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from types import FrameType
from typing import TypeVar

from octvideo.distributed.collectives import largest
from octvideo.distributed.signals import STOP_SIGNALS

T = TypeVar("T")


class Interrupted(Exception):  # noqa: N818 - no error
    """The run was asked to stop; ``signum`` is the signal that asked."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Within the context, Ctrl-C, SIGTERM, SIGHUP (a lost terminal) and SIGUSR1 (preemption) wait
    for ``check()``. A signal to any process of the run counts for all.

    A second Ctrl-C ends the process at once, as usual.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may handle signals
        for signum in STOP_SIGNALS:
            # nohup leaves SIGHUP ignored: then a lost terminal is no reason to stop
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._handlers[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)

    def _remember(self, signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if signum == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        elif self.signum is None:
            os.write(2, b"\nStopping after this step; Ctrl-C again ends at once.\n")
        if signum == signal.SIGTERM and self.signum is not None:
            return  # the time is up that SIGUSR1 told of: it is still a preemption
        self.signum = signum

    def check(self, save_is_due: bool = False) -> bool:
        """Whether a checkpoint is due, to any process. All processes call it at the same points.

        Raises:
            Interrupted: on every process, where a signal has come to one.
        """
        wish = largest(2 * (self.signum or 0) + save_is_due)
        if wish > 1:
            raise Interrupted(wish // 2)
        return bool(wish)

    def watch(self, batches: Collection[T]) -> Iterator[T]:
        """The batches, with a check before each, also where processes differ in their number.

        Those that the others do not have are passed on unchecked.
        """
        common = -largest(-len(batches))
        for number, batch in enumerate(batches):
            if number < common:
                self.check()
            yield batch


def _leave_terminal() -> None:
    """Writing to a terminal that is gone is an error: from now on the log file has the output."""
    with open(os.devnull, "w") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            if stream.isatty():
                os.dup2(nowhere.fileno(), stream.fileno())
