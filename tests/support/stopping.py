"""Runs that are stopped at a certain point."""

import signal

from octvideo.distributed.preemption import StopRequest


class StopAfter(StopRequest):
    """Asks to stop at the n-th time it is looked at."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.checks = checks

    def signum(self) -> int:
        self.checks -= 1
        return signal.SIGTERM if self.checks < 0 else 0
