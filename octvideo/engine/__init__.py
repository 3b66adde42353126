"""Training and testing."""

from octvideo.distributed.preemption import Preempted
from octvideo.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from octvideo.engine.jobs import launch
from octvideo.engine.start import check_run
from octvideo.engine.test import run_test
from octvideo.engine.train import run_train

__all__ = [
    "CheckpointError",
    "Preempted",
    "check_run",
    "launch",
    "load_checkpoint",
    "run_test",
    "run_train",
    "save_checkpoint",
]
