"""Stops a run between two steps when a signal asks for it, all of its processes at the same one."""

import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from types import FrameType
from typing import TypeVar

from octvideo.distributed.collectives import all_max
from octvideo.distributed.signals import STOP_SIGNALS

T = TypeVar("T")


class Preempted(Exception):  # noqa: N818 - not an error
    """A signal, ``signum``, has asked the run to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Within the context, Ctrl-C, SIGTERM, SIGHUP (a lost terminal) and SIGUSR1 (preemption) wait
    until the run looks at them. A signal to any process of the run counts for all.

    A second Ctrl-C ends the process at once, as usual.
    """

    def __init__(self) -> None:
        self._signum = 0
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
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _remember(self, signum: int, _frame: FrameType | None) -> None:
        if signum == self._signum == signal.SIGINT:
            raise KeyboardInterrupt
        if signum == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        elif not self._signum:
            os.write(2, b"\nStopping after this step; Ctrl-C again ends at once.\n")
        if signum == signal.SIGTERM and self._signum:
            return  # the time that SIGUSR1 announced is up: it is still a preemption
        self._signum = signum

    def signum(self) -> int:
        """Returns the signal that this process has received, 0 for none."""
        return self._signum

    def check(self) -> None:
        """All processes call this at the same points.

        Raises:
            Preempted: on every process, if one has received a signal.
        """
        raise_if_preempted(*all_max(self.signum()))

    def watch(self, batches: Collection[T]) -> Iterator[T]:
        """Yields the batches, with a check before each, even if processes have different numbers.

        The batches that the other processes lack are not checked.
        """
        [missing] = all_max(-len(batches))
        for number, batch in enumerate(batches):
            if number < -missing:
                self.check()
            yield batch


def raise_if_preempted(signum: int) -> None:
    """Raises `Preempted` for a signal number other than 0."""
    if signum:
        raise Preempted(signum)


def _leave_terminal() -> None:
    """Redirects output to nowhere: writing to a lost terminal fails, and the log file has it."""
    with open(os.devnull, "w") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            if stream.isatty():
                os.dup2(nowhere.fileno(), stream.fileno())
