"""TensorBoard, if the configuration asks for it: curves over steps and over epochs."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fvcore.common.config import CfgNode

from octvideo.distributed.collectives import is_main

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger("octvideo")

_NAMES = {"loss": "loss", "lr": "lr", "top1_err": "Top1_err", "top5_err": "Top5_err"}


class Curves:
    """Writes curves into a folder; with None, or in other processes than the main one, nowhere.

    ``Train/loss``, ``Val/loss`` and so on run over the steps of the training run. ``Epoch/loss``
    and so on run over epochs, in the runs ``train`` and ``val`` below the folder: TensorBoard draws
    curves of one name into one chart, so that training and validation can be compared.

    If it cannot write (a full disk, a file in the way), it says so once and stops: the run does not
    need it.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def open(self, steps_done: int = 0, epochs_done: int = 0) -> None:
        """Opens the files. What a resumed run wrote after ``steps_done`` is hidden."""
        if self.folder and is_main():
            folder = self.folder
            self._guard(lambda: self._open(folder, steps_done, epochs_done))

    def _open(self, folder: Path, steps_done: int, epochs_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        for run, done in (("", steps_done), ("train", epochs_done), ("val", epochs_done)):
            self._writers[run] = SummaryWriter(
                log_dir=str(folder / run), purge_step=done + 1 if done else None
            )

    def add_steps(self, prefix: str, stats: Mapping[str, float], steps_done: int) -> None:
        """Adds ``{prefix}/loss`` and so on: what ``stats`` has of loss, rate and errors."""
        self._add("", prefix, stats, steps_done)

    def add_epoch(self, run: str, stats: Mapping[str, float], epoch: int) -> None:
        """Adds ``Epoch/loss`` and so on to the run "train" or "val"; epochs count from 1."""
        self._add(run, "Epoch", stats, epoch)

    def close(self) -> None:
        for writer in list(self._writers.values()):
            self._guard(writer.close)

    def _add(self, run: str, prefix: str, stats: Mapping[str, float], at: int) -> None:
        for key, name in _NAMES.items():
            if key in stats and (writer := self._writers.get(run)):
                self._guard(lambda: writer.add_scalar(f"{prefix}/{name}", stats[key], at))  # noqa: B023

    def _guard(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            text = "TensorBoard cannot write to %s (%s): the run continues without it"
            logger.warning(text, self.folder, error.strerror or error)
            self._writers = {}


def build_curves(cfg: CfgNode) -> Curves:
    """Returns the curves of TENSORBOARD.LOG_DIR (default ``runs-{dataset}``) under OUTPUT_DIR."""
    board = cfg.TENSORBOARD
    name = board.LOG_DIR or f"runs-{cfg.TRAIN.DATASET}"
    return Curves(Path(cfg.OUTPUT_DIR) / name if board.ENABLE else None)
