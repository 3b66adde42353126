"""What a training run has come to: where it starts, what a checkpoint of it holds, and resuming."""

import logging
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from octvideo.config import dump
from octvideo.engine.averaging import WeightAverage
from octvideo.engine.checkpoint import (
    check_resume,
    checkpoint_path,
    list_checkpoints,
    load_newest,
    load_weights,
    remove_leftovers,
    remove_superseded,
    save_checkpoint,
)
from octvideo.utils.dist import is_main
from octvideo.utils.errors import UserError
from octvideo.weights import load_into, read_weights

logger = logging.getLogger("octvideo")


class RunState:
    """Model, optimizer, and how far the run is.

    ``epoch`` counts finished epochs, ``step`` the finished steps of the one under way; between
    two steps they say exactly what ``save`` has to write and where a later run goes on.
    """

    def __init__(
        self,
        cfg: CfgNode,
        device: torch.device,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: WeightAverage | None,
        steps_per_epoch: int,
        class_names: list[str] | None = None,
    ) -> None:
        self.cfg, self.device, self.model, self.optimizer = cfg, device, model, optimizer
        self.scaler, self.average = scaler, average
        self.steps_per_epoch, self.class_names = steps_per_epoch, class_names
        self.folder = Path(cfg.OUTPUT_DIR) / "checkpoints"
        self.epoch = self.step = 0
        self.min_errors = {"min_top1_err": 100.0, "min_top5_err": 100.0}
        self.newest: Path | None = None

    def start(self) -> None:
        """Continues the newest checkpoint of OUTPUT_DIR, or begins from a file, or from scratch.

        A run from TRAIN.CHECKPOINT_FILE_PATH is a new one: epoch 0, new optimizer.
        """
        remove_leftovers(self.folder)
        newest = load_newest(self.folder) if self.cfg.TRAIN.AUTO_RESUME else None
        if not self.cfg.TRAIN.AUTO_RESUME and list_checkpoints(self.folder):
            logger.warning("%s holds checkpoints of an earlier run", self.folder)
        if newest is not None:
            self._resume(*newest)
        elif self.cfg.TRAIN.CHECKPOINT_FILE_PATH:
            self._begin_from(self.cfg.TRAIN.CHECKPOINT_FILE_PATH)
        elif self.cfg.TRAIN.CHECKPOINT_INFLATE:
            raise UserError(
                "TRAIN.CHECKPOINT_INFLATE is True but there is nothing to inflate: set "
                "TRAIN.CHECKPOINT_FILE_PATH to the file of a 2D network, or clear the first"
            )
        else:
            logger.info("Training starts from random weights")
        if self.average and newest is None:
            self.average.restart()

    def _begin_from(self, path: str) -> None:
        cfg = self.cfg.TRAIN
        weights = read_weights(path, cfg.CHECKPOINT_TYPE, cfg.CHECKPOINT_CLEAR_NAME_PATTERN)
        report = load_into(self.model, weights, finetune=True, inflate=cfg.CHECKPOINT_INFLATE)
        logger.info("A new training starts from the weights of %s", report)

    def _resume(self, path: Path, content: dict[str, Any]) -> None:
        changes = check_resume(path, content, self.cfg)
        if other := self.cfg.TRAIN.CHECKPOINT_FILE_PATH:
            logger.info("The training of OUTPUT_DIR goes on; %s is not read", other)
        load_weights(self.model, content["model_state"], path)
        self.optimizer.load_state_dict(content["optimizer_state"])
        if state := content.get("scaler_state"):  # empty but for fp16
            self.scaler.load_state_dict(state)
        self._resume_average(path, content.get("ema_state"))
        self.step = content.get("step", 0)
        self.epoch = content["epoch"] + (0 if self.step else 1)  # PySlowFast's "epoch" is from 0
        if "TRAIN.BATCH_SIZE" in changes:  # the same share of the epoch
            old, new = changes["TRAIN.BATCH_SIZE"]
            self.step = min(self.step * old // new, self.steps_per_epoch)
        self.newest = path
        self.min_errors.update(content.get("min_errors", {}))
        if "rng_state" in content:
            torch.set_rng_state(content["rng_state"])
            if self.device.type == "cuda" and "cuda_rng_state" in content:
                torch.cuda.set_rng_state(content["cuda_rng_state"], self.device)
        logger.info("Resuming from %s: epoch %d, step %d", path, self.epoch + 1, self.step)

    def _resume_average(self, path: Path, state: dict[str, Tensor] | None) -> None:
        if self.average and state:
            load_weights(self.average.model, state, path)
        elif self.average:
            self.average.restart()
            logger.warning("%s has no average of the weights: EMA begins with its weights", path)

    def save(self) -> Path:
        """Writes the checkpoint of this moment, atomically, and removes those it supersedes."""
        path = checkpoint_path(self.folder, self.epoch, self.step)
        if not is_main():
            return path
        content: dict[str, Any] = {
            "epoch": self.epoch if self.step else self.epoch - 1,
            "step": self.step,
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.scaler.state_dict(),
            "rng_state": torch.get_rng_state(),
            "min_errors": self.min_errors,
            "cfg": dump(self.cfg),
        }
        if self.average:
            content["ema_state"] = self.average.model.state_dict()
        if self.class_names:
            content["class_names"] = self.class_names
        if self.device.type == "cuda":
            content["cuda_rng_state"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(path, content)
        self.newest = path
        remove_superseded(self.folder, path, self.cfg.TRAIN.KEEP_CHECKPOINTS)
        logger.info("Saved %s", path)
        return path
