"""Training and testing."""

from octvideo.distributed.preemption import Interrupted
from octvideo.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from octvideo.engine.launch import launch
from octvideo.engine.start import check_run
from octvideo.engine.test import run_test
from octvideo.engine.train import run_train

__all__ = [
    "CheckpointError",
    "Interrupted",
    "check_run",
    "launch",
    "load_checkpoint",
    "run_test",
    "run_train",
    "save_checkpoint",
]
