"""What a training run has come to: where it starts, what a checkpoint of it holds, and resuming.

A run that goes on from a checkpoint is, on a CPU bit for bit, the one that was never stopped: what
clips and mixtures are drawn from depends on seed, epoch and place alone, and all other random
numbers are torch's, whose state is in the checkpoint for each process.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import dump
from octvideo.data.loader import EpochSampler
from octvideo.distributed.collectives import (
    gather_objects,
    is_main,
    on_all,
    on_main,
    rank,
    world_size,
)
from octvideo.engine.averaging import WeightAverage
from octvideo.engine.checkpoint import (
    SPLIT,
    CheckpointError,
    best_path,
    check_resume,
    checkpoint_path,
    link_checkpoint,
    load_checkpoint,
    load_weights,
    newest_first,
    prepare_folder,
    remove_superseded,
    save_checkpoint,
    set_aside,
    warn_of_another_network,
)
from octvideo.engine.meters import TrainMeter
from octvideo.engine.optim import saved_state
from octvideo.engine.record import RankState, Record, read_record
from octvideo.utils.errors import UserError
from octvideo.weights import Weights, load_into, read_weights

logger = logging.getLogger("octvideo")


class RunState:
    """Model, optimizer, and how far the run is.

    ``epoch`` counts finished epochs; of the one under way, ``step`` counts the steps that were
    made and ``samples`` the videos that were used, by all processes. Between two steps they say
    exactly what ``save`` has to write and where a later run goes on.

    All processes of a run call the same methods; the main one alone writes.
    """

    def __init__(
        self,
        cfg: CfgNode,
        device: torch.device,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: WeightAverage | None,
        sampler: EpochSampler,
        meters: Mapping[str, TrainMeter],
        class_names: list[str] | None = None,
    ) -> None:
        self.cfg, self.device, self.model, self.optimizer = cfg, device, model, optimizer
        self.scaler, self.average, self.sampler, self.meters = scaler, average, sampler, meters
        self.class_names = class_names
        self.folder = Path(cfg.OUTPUT_DIR) / "checkpoints"
        self.epoch = self.step = self.samples = 0
        self.min_errors = {"min_top1_err": 100.0, "min_top5_err": 100.0}
        self.best_epoch: int | None = None  # the number of epochs after which errors were lowest
        self.newest: Path | None = None
        self.saved_at = time.monotonic()

    # ---------------------------------------------------------------- how far

    @property
    def steps_per_epoch(self) -> int:
        return self.sampler.num_batches

    @property
    def step_of_epoch(self) -> int:
        """Steps of the epoch under way, as if all had been of today's size."""
        return self.samples // self.sampler.samples_per_step

    @property
    def steps_done(self) -> int:
        return self.epoch * self.steps_per_epoch + self.step_of_epoch

    @property
    def steps_left(self) -> int:
        return self.cfg.SOLVER.MAX_EPOCH * self.steps_per_epoch - self.steps_done

    @property
    def is_finished(self) -> bool:
        return self.epoch >= self.cfg.SOLVER.MAX_EPOCH

    @property
    def position(self) -> float:
        """Epochs that are done, with the share of the one under way."""
        return self.epoch + self.samples / (self.steps_per_epoch * self.sampler.samples_per_step)

    def step_done(self) -> None:
        self.step += 1
        self.samples += self.sampler.samples_per_step

    def epoch_done(self) -> None:
        self.epoch, self.step, self.samples = self.epoch + 1, 0, 0

    def record_errors(self, top1: float, top5: float) -> bool:
        """Takes the errors of a validation (percent); whether its top-1 error is the lowest.

        Of equal errors the last counts, as few videos give the same error in many epochs, and the
        first of these has often learned nothing yet.
        """
        is_best = self.best_epoch is None or top1 <= self.min_errors["min_top1_err"]
        if is_best:
            self.best_epoch = self.epoch + 1
        for key, error in (("min_top1_err", top1), ("min_top5_err", top5)):
            self.min_errors[key] = min(self.min_errors[key], error)
        return is_best

    def save_is_due(self) -> bool:
        """By the clock of the main process."""
        seconds = self.cfg.TRAIN.CHECKPOINT_SECONDS
        return bool(seconds) and is_main() and time.monotonic() - self.saved_at >= seconds

    # ---------------------------------------------------------------- start

    def start(self) -> None:
        """Continues the newest checkpoint of OUTPUT_DIR, or begins from a file, or from scratch.

        A run from TRAIN.CHECKPOINT_FILE_PATH is a new one: epoch 0, new optimizer; but with a
        training's file of PySlowFast it goes on, as there (TRAIN.CHECKPOINT_EPOCH_RESET).
        """
        on_main(lambda: prepare_folder(self.folder))
        resumed = False
        if self.cfg.TRAIN.AUTO_RESUME:
            resumed = self._resume_newest()
        if resumed:
            return
        if self.cfg.TRAIN.CHECKPOINT_FILE_PATH:
            path = self.cfg.TRAIN.CHECKPOINT_FILE_PATH
            on_all(lambda: self._begin_from(path))
        elif self.cfg.TRAIN.CHECKPOINT_INFLATE:
            raise UserError(
                "TRAIN.CHECKPOINT_INFLATE is True but there is nothing to inflate: set "
                "TRAIN.CHECKPOINT_FILE_PATH to the file of a 2D network, or clear the first"
            )
        else:
            logger.info("Training starts from random weights")
        if self.average:
            self.average.restart()
        if not self.cfg.TRAIN.AUTO_RESUME:  # what CHECKPOINT_FILE_PATH names there has been read
            on_main(self._set_earlier_run_aside)

    def _set_earlier_run_aside(self) -> None:
        if folder := set_aside(self.folder):
            logger.warning(
                "%s had checkpoints of an earlier run, which are in %s now: TRAIN.AUTO_RESUME is "
                "False, so that each start (of a requeued job too) is a new run",
                *(self.folder, folder),
            )

    def _begin_from(self, path: str) -> None:
        cfg = self.cfg.TRAIN
        weights = read_weights(path, clear_names=cfg.CHECKPOINT_CLEAR_NAME_PATTERN)
        if self._goes_on_with(weights):
            return
        warn_of_another_network(weights.path, weights.cfg, self.cfg, SPLIT)
        report = load_into(self.model, weights, finetune=True, inflate=cfg.CHECKPOINT_INFLATE)
        logger.info("A new training starts from the weights of %s", report)

    def _goes_on_with(self, weights: Weights) -> bool:
        """Whether it is a training of PySlowFast that goes on here, which it then has begun to."""
        cfg = self.cfg.TRAIN
        anew = cfg.CHECKPOINT_EPOCH_RESET or cfg.CHECKPOINT_INFLATE
        if anew or weights.kind != "pyslowfast" or weights.epoch is None:
            return False
        if weights.epoch + 1 >= self.cfg.SOLVER.MAX_EPOCH:
            logger.warning(
                "%s has %d epochs, and SOLVER.MAX_EPOCH is %d: a new training starts from its "
                "weights. To continue that training, raise SOLVER.MAX_EPOCH",
                weights.path,
                weights.epoch + 1,
                self.cfg.SOLVER.MAX_EPOCH,
            )
            return False
        try:
            self._resume(weights.path, load_checkpoint(weights.path))
        except CheckpointError as reason:
            logger.warning("Its training cannot be continued, so a new one starts: %s", reason)
            return False
        logger.warning(
            "The training in %s continues with epoch %d, as in PySlowFast. To start a new one from "
            "its weights, set TRAIN.CHECKPOINT_EPOCH_RESET True",
            weights.path,
            self.epoch + 1,
        )
        return True

    def _resume_newest(self) -> bool:
        """The main process finds the file; all others read the same one."""
        path, *progress = on_main(
            lambda: (newest_first(self.folder, self._resume), self.epoch, self.step, self.samples)
        )
        if path is None:
            return False

        def follow() -> None:
            self._resume(path, load_checkpoint(path))
            if [self.epoch, self.step, self.samples] != progress:
                raise CheckpointError(
                    f"{path}: process {rank()} reads another file there than process 0; "
                    "OUTPUT_DIR must be one folder that all nodes share"
                )

        on_all(lambda: None if is_main() else follow())
        self.newest = path
        if other := self.cfg.TRAIN.CHECKPOINT_FILE_PATH:
            logger.info("The run in OUTPUT_DIR resumes; %s is not read", other)
        if not self.is_finished:
            text = "Resuming from %s: epoch %d, step %d"
            logger.info(text, path, self.epoch + 1, self.step)
        return True

    def _resume(self, path: Path, content: dict[str, Any]) -> None:
        """Takes what a checkpoint has of the run; where anything in it is wrong, nothing."""
        changes = check_resume(path, content, self.cfg)
        record = read_record(path, content, self.optimizer, self.meters, self.device)
        load_weights(self.model, content["model_state"], path)
        # From here on nothing can fail.
        self._resume_average(path, record)
        self.optimizer.load_state_dict(record.optimizer)
        if record.scaler:
            self.scaler.load_state_dict(record.scaler)
        self.epoch, self.step = record.epochs, record.step
        self.samples = record.samples
        if self.samples is None:
            self.samples = self.step * self.sampler.samples_per_step
        self.min_errors.update(record.min_errors)
        self.best_epoch = record.best_epoch
        self._restore_ranks(record.ranks)
        if is_main():
            self._tell_changes(path, record, changes)

    def _resume_average(self, path: Path, record: Record) -> None:
        if self.average and record.average:
            load_weights(self.average.model, record.average, path)
        elif self.average:
            self.average.restart()
            logger.warning("%s has no average of the weights: EMA begins with its weights", path)

    def _restore_ranks(self, states: list[RankState]) -> None:
        """Random numbers and meters of each process, where there are as many as there were."""
        if len(states) == world_size():
            mine = states[rank()]
            torch.set_rng_state(mine.rng)
            if mine.cuda_rng is not None:
                torch.cuda.set_rng_state(mine.cuda_rng, self.device)
            meters = mine.meters
        else:
            key = [self.cfg.RNG_SEED, rank(), self.epoch, self.samples]
            torch.manual_seed(int(np.random.default_rng(key).integers(2**63)))
            meters = _sums(states) if is_main() else {}
        for name, state in meters.items():
            self.meters[name].restore(state)

    def _tell_changes(self, path: Path, record: Record, changes: str) -> None:
        if changes:
            logger.warning("Changed since %s was written: %s", path.name, changes)
        before = record.world
        differences = [
            f"{count} {name}, there were {before[name]}"
            for name, count in self._world().items()
            if before.get(name, count) != count
        ]
        if differences:
            logger.warning(
                "There are %s: the run goes on at video %d of its epoch, but its weights will not "
                "be bit for bit those that it would have had",
                "; ".join(differences),
                self.samples,
            )

    def _world(self) -> dict[str, int]:
        """What must not change for a run to go on exactly."""
        return {
            "processes": world_size(),
            "clips a step": self.sampler.samples_per_step,
            "training videos": self.sampler.num_samples,
        }

    # ---------------------------------------------------------------- save

    def save(self, best: bool = False, due: bool = True, is_final: bool = True) -> Path:
        """Writes the checkpoint of this moment, atomically, and removes those it supersedes.

        best: as `checkpoint_best.pyth`; due: under the name of its progress, which is returned.
        is_final: False for one that the next will soon take the place of; it is not in the log.

        Raises:
            CheckpointError: on all processes; the files from before are whole.
        """
        path = checkpoint_path(self.folder, self.epoch, self.step)
        states = gather_objects(self._rank_state())
        on_main(lambda: self._write(path, self._content(states or []), best, due))
        if due:
            self.newest, self.saved_at = path, time.monotonic()
            note = "; checkpoint_best.pyth is the same: the lowest error so far" if best else ""
            logger.log(logging.INFO if is_final else logging.DEBUG, "Saved %s%s", path, note)
        elif best:
            logger.info("Saved %s, with the lowest error so far", best_path(self.folder))
        return path

    def _write(self, path: Path, content: dict[str, Any], best: bool, due: bool) -> None:
        # The best first: a run that ends between the two finds it again, and writes it anew.
        if best:
            save_checkpoint(best_path(self.folder), content)
        if best and due:
            link_checkpoint(best_path(self.folder), path, content)
        elif due:
            save_checkpoint(path, content)
        if due:
            done = self.epoch == self.cfg.SOLVER.MAX_EPOCH
            remove_superseded(self.folder, path, self.cfg.TRAIN.KEEP_CHECKPOINTS, done)

    def _content(self, rank_states: list[dict[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {
            "epoch": self.epoch if self.step else self.epoch - 1,
            "step": self.step,
            "samples": self.samples,
            "world": self._world(),
            "model_state": self.model.state_dict(),
            "optimizer_state": saved_state(self.optimizer),
            "scaler_state": self.scaler.state_dict(),
            "rank_states": rank_states,
            "min_errors": self.min_errors,
            "best_epoch": self.best_epoch,
            "cfg": dump(self.cfg),
        }
        if self.average:
            content["ema_state"] = self.average.model.state_dict()
        if self.class_names:
            content["class_names"] = self.class_names
        return content

    def _rank_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "rng": torch.get_rng_state(),
            "meters": {name: meter.state() for name, meter in self.meters.items()},
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state


def _sums(states: list[RankState]) -> dict[str, list[float]]:
    """The meters of all processes in one."""
    names = states[0].meters if states else ()
    return {
        name: [sum(values) for values in zip(*(s.meters[name] for s in states), strict=True)]
        for name in names
    }
