"""TensorBoard, where the configuration asks for it."""

from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.utils.dist import is_main


class _NoWriter:
    """Takes what a SummaryWriter takes, and writes nothing."""

    def add_scalar(self, *_: Any) -> None: ...

    def close(self) -> None: ...


def build_writer(cfg: CfgNode) -> Any:
    """A SummaryWriter in TENSORBOARD.LOG_DIR (default ``runs-{dataset}``) under OUTPUT_DIR."""
    if not (cfg.TENSORBOARD.ENABLE and is_main()):
        return _NoWriter()
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    folder = cfg.TENSORBOARD.LOG_DIR or f"runs-{cfg.TRAIN.DATASET}"
    return SummaryWriter(log_dir=str(Path(cfg.OUTPUT_DIR) / folder))
