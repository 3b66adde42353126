"""Where a training run begins: its own checkpoint, the weights of a file, or random weights."""

import logging
from dataclasses import dataclass

from torch import nn

from octvideo.distributed.collectives import on_all, on_main
from octvideo.engine.averaging import WeightAverage
from octvideo.engine.checkpoint import CheckpointError, load_checkpoint, set_aside
from octvideo.engine.checkpointer import Checkpointer
from octvideo.utils.errors import UserError
from octvideo.weights import Weights, load_into, read_weights

logger = logging.getLogger("octvideo")


@dataclass(frozen=True)
class Beginning:
    """How a run begins; see TRAIN.AUTO_RESUME and TRAIN.CHECKPOINT_FILE_PATH.

    Args:
        file: "" for none.
        new_run: start at epoch 0 even from a training checkpoint of PySlowFast, which otherwise
            is resumed, as there.
    """

    auto_resume: bool
    file: str
    new_run: bool
    inflate: bool
    clear_names: tuple[str, ...]

    def __call__(
        self, model: nn.Module, average: WeightAverage | None, checkpoints: Checkpointer
    ) -> None:
        """Loads the model, and the other state if a run is resumed."""
        checkpoints.prepare()
        if self.auto_resume and checkpoints.resume_newest():
            self._log_resume(checkpoints)
            return
        if self.file:
            on_all(lambda: self._from_file(model, checkpoints))
        elif self.inflate:
            raise UserError(
                "TRAIN.CHECKPOINT_INFLATE is True but there is nothing to inflate: set "
                "TRAIN.CHECKPOINT_FILE_PATH to the file of a 2D network, or clear the first"
            )
        else:
            logger.info("Training starts from random weights")
        if average:
            average.restart()
        if not self.auto_resume:  # a file that CHECKPOINT_FILE_PATH names there has been read
            on_main(lambda: _set_earlier_run_aside(checkpoints))

    def _log_resume(self, checkpoints: Checkpointer) -> None:
        progress = checkpoints.progress
        if self.file:
            logger.info("The run in OUTPUT_DIR resumes; %s is not read", self.file)
        if not progress.is_finished:
            text = "Resuming from %s: epoch %d, step %d"
            logger.info(text, checkpoints.newest, progress.epoch + 1, progress.step)

    def _from_file(self, model: nn.Module, checkpoints: Checkpointer) -> None:
        weights = read_weights(self.file, clear_names=self.clear_names)
        if self._continues(weights, checkpoints):
            return
        report = load_into(model, weights, finetune=True, inflate=self.inflate)
        logger.info("A new training starts from the weights of %s", report)

    def _continues(self, weights: Weights, checkpoints: Checkpointer) -> bool:
        """Resumes a training checkpoint of PySlowFast; returns whether it is one."""
        if self.new_run or self.inflate or weights.kind != "pyslowfast" or weights.epoch is None:
            return False
        max_epoch = checkpoints.progress.max_epoch
        if weights.epoch + 1 >= max_epoch:
            logger.warning(
                "%s has %d epochs, and SOLVER.MAX_EPOCH is %d: a new training starts from its "
                "weights. To continue that training, raise SOLVER.MAX_EPOCH",
                *(weights.path, weights.epoch + 1, max_epoch),
            )
            return False
        try:
            checkpoints.resume(weights.path, load_checkpoint(weights.path))
        except CheckpointError as reason:
            logger.warning("Its training cannot be continued, so a new one starts: %s", reason)
            return False
        logger.warning(
            "The training in %s continues with epoch %d, as in PySlowFast. To start a new one from "
            "its weights, set TRAIN.CHECKPOINT_EPOCH_RESET True",
            *(weights.path, checkpoints.progress.epoch + 1),
        )
        return True


def _set_earlier_run_aside(checkpoints: Checkpointer) -> None:
    if folder := set_aside(checkpoints.folder):
        logger.warning(
            "%s had checkpoints of an earlier run, which are in %s now: TRAIN.AUTO_RESUME is "
            "False, so that each start (of a requeued job too) is a new run",
            *(checkpoints.folder, folder),
        )
