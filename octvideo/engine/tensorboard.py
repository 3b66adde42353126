"""TensorBoard, where the configuration asks for it."""

from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.utils.dist import is_main


class _NoWriter:
    """Takes what a SummaryWriter takes, and writes nothing."""

    def add_scalar(self, *_: Any) -> None: ...

    def close(self) -> None: ...


def build_writer(cfg: CfgNode, steps_done: int = 0) -> Any:
    """A SummaryWriter in TENSORBOARD.LOG_DIR (default ``runs-{dataset}``) under OUTPUT_DIR.

    Of what a killed run has written, TensorBoard does not show what comes after ``steps_done``.
    """
    if not (cfg.TENSORBOARD.ENABLE and is_main()):
        return _NoWriter()
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    folder = cfg.TENSORBOARD.LOG_DIR or f"runs-{cfg.TRAIN.DATASET}"
    purge_step = steps_done + 1 if steps_done else None
    return SummaryWriter(log_dir=str(Path(cfg.OUTPUT_DIR) / folder), purge_step=purge_step)
