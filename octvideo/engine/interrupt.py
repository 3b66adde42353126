"""Stops a run between two steps when it is asked to end."""

import os
import signal
import sys
import threading
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - no error
    """The run was asked to stop; ``signum`` is the signal that asked."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Within the context, Ctrl-C, SIGTERM and a lost terminal (SIGHUP) wait for ``check()``.

    A second Ctrl-C ends the process at once, as usual.
    """

    # Windows has no SIGHUP
    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.signum: int | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may handle signals
        for signum in self.SIGNALS:
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
        if signum not in (signal.SIGINT, signal.SIGTERM):
            _leave_terminal()
        elif self.signum is None:
            os.write(2, b"\nStopping after this step; Ctrl-C again ends at once.\n")
        self.signum = signum

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)


def _leave_terminal() -> None:
    """Writing to a terminal that is gone is an error: from now on the log file has the output."""
    with open(os.devnull, "w") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            if stream.isatty():
                os.dup2(nowhere.fileno(), stream.fileno())
