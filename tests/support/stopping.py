"""Runs that are stopped at a certain point."""

import signal

from octvideo.distributed.preemption import Interrupted, StopRequest


class StopAfter(StopRequest):
    """Asks to stop at the n-th time it is looked at."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.checks = checks

    def check(self, save_is_due: bool = False) -> bool:
        self.checks -= 1
        if self.checks < 0:
            raise Interrupted(signal.SIGTERM)
        return save_is_due
