"""The training loop: epochs of steps, and the tasks between them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from octvideo.data import VideoLoader
from octvideo.data.clips import Batch
from octvideo.data.protocol import Protocol
from octvideo.distributed.collectives import all_max, rank
from octvideo.distributed.data_parallel import share_buffers, share_weights
from octvideo.distributed.preemption import Preempted, StopRequest, raise_if_preempted
from octvideo.engine.averaging import has_finite_statistics, update_bn_statistics
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.begin import Beginning
from octvideo.engine.checkpointer import Checkpointer
from octvideo.engine.log import is_terminal
from octvideo.engine.losses import Loss
from octvideo.engine.mixup import mixing_generator
from octvideo.engine.nonfinite import RecentLosses
from octvideo.engine.optim import LRSchedule, set_lr
from octvideo.engine.precision import autocast
from octvideo.engine.scorer import Scorer
from octvideo.engine.step import TrainStep
from octvideo.engine.train_log import TrainLog
from octvideo.engine.validate import validate
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")


@dataclass(frozen=True)
class Plan:
    """What a run does besides its steps.

    Args:
        seed: of the mixing of clips.
        clip_shape: of one clip, (C, T, S, S).
        batch_size: clips of this process in a step.
        validation_period, checkpoint_period: in epochs; the last epoch counts, too. 0 validations:
            none.
        precise_bn: whether batch norm gets the statistics of ``precise_batches`` batches.
        skips_lost: whether steps that are not finite are left out.
    """

    seed: int
    clip_shape: tuple[int, ...]
    batch_size: int
    validation_period: int
    checkpoint_period: int
    precise_bn: bool
    precise_batches: int
    skips_lost: bool


@dataclass(frozen=True)
class Validation:
    """What a validation reads, and how it judges the scores.

    Args:
        protocol: how the network looks at a file.
        loss: of scores (N, classes), as the network gives them in evaluation, and labels (N,).
        compiled: whether the network is.
    """

    loader: VideoLoader[Batch]
    protocol: Protocol
    loss: Loss
    compiled: bool


class Trainer:
    """Trains until the last epoch, or until a signal asks it to stop; then it saves and ends.

    Args:
        step: what one batch does; it holds the optimizer and the average of the weights.
        validation: None for no validation.
        begin: loads what the run starts from.
    """

    def __init__(
        self,
        model: nn.Module,
        step: TrainStep,
        schedule: LRSchedule,
        train_loader: VideoLoader[Batch],
        validation: Validation | None,
        bad_videos: BadVideos,
        begin: Beginning,
        checkpoints: Checkpointer,
        log: TrainLog,
        plan: Plan,
    ) -> None:
        self.model, self.step, self.schedule, self.plan = model, step, schedule, plan
        self.train_loader, self.validation = train_loader, validation
        self.begin, self.checkpoints, self.log = begin, checkpoints, log
        self.progress, self.bad_videos = checkpoints.progress, bad_videos
        self.optimizer, self.average = step.update.optimizer, step.average
        self.evaluated = self.average.model if self.average else model
        self.models = list(dict.fromkeys([model, self.evaluated]))  # in the order of all ranks
        self.recent = RecentLosses(self.train_loader.dataset.videos.path)

    def start(self) -> None:
        """Resumes the newest checkpoint of OUTPUT_DIR, or begins from a file, or from scratch."""
        self.begin(self.model, self.average, self.checkpoints)
        share_weights(*self.models)
        self.log.open()

    def run(self, stop: StopRequest) -> Path:
        """Returns the newest checkpoint, which is the one of the last epoch.

        Raises:
            Preempted: ``stop`` has received a signal; the state is saved.
        """
        if self.progress.is_finished:
            text = "%s holds %d epochs already, SOLVER.MAX_EPOCH is %d: there is nothing to train"
            logger.info(text, self.checkpoints.newest, self.progress.epoch, self.progress.max_epoch)
            self.log.close()
        else:
            self._run(stop)
        assert self.checkpoints.newest is not None
        return self.checkpoints.newest

    def _run(self, stop: StopRequest) -> None:
        try:
            while not self.progress.is_finished:
                self._train_epoch(stop)
                self._log_epoch()
                self._finish_epoch(stop)
        except Preempted:
            if self.progress.epoch or self.progress.step:
                self._save()
            raise
        finally:
            self.bad_videos.close()
            self.log.close()
        logger.info("Training done: %d epochs", self.progress.epoch)

    # ---------------------------------------------------------------- an epoch's steps

    def _train_epoch(self, stop: StopRequest) -> None:
        self.model.train()
        self.progress.sampler.set_epoch(self.progress.epoch, self.progress.samples)
        self._begin_pass("train", self.train_loader)
        with self.log.begin_epoch():
            for batch in self._train_batches():
                self.log.data_arrived()
                self.train_step(batch)
                self.log.step_done()
                # The one message of a step: a signal, a checkpoint that is due, an empty batch. It
                # is sent before the wait for data, for which a preempted run may have no time.
                signum, save_is_due, is_empty = all_max(
                    stop.signum(), self.checkpoints.save_is_due(), not len(batch["index"])
                )
                self._check_batch(is_empty)
                self.progress.step_done()
                if self.log.is_due():
                    self._log_steps()
                raise_if_preempted(signum)
                if save_is_due:
                    self._save()

    def train_step(self, batch: Batch) -> None:
        """Makes one optimizer step on a batch of this process. See `TrainStep`."""
        progress = self.progress
        set_lr(self.optimizer, self.schedule(progress.position))
        rng = mixing_generator(self.plan.seed, progress.epoch, progress.step, rank())
        loss = self.step(batch, rng, self.log.meters.values())
        videos = batch["index"].tolist()
        self.recent.add(progress.epoch + 1, progress.step + 1, loss, videos)

    def _train_batches(self) -> Iterator[Batch]:
        """Yields batches that are all as large as they should be: processes weigh the same.

        Other clips of the batch stand in for clips that could not be read. A batch without a clip
        is filled up with black; `_check_batch` ends the run after its step, on all processes.
        """
        size = self.plan.batch_size
        for batch in self.train_loader:
            self.bad_videos.add(batch)
            found = len(batch["label"])
            if not found:
                video, label = torch.zeros(size, *self.plan.clip_shape), torch.zeros(size).long()
                batch = {**batch, "video": video, "label": label}
            elif found < size:
                places = torch.arange(size) % found
                video, label = batch["video"][places], batch["label"][places]
                batch = {**batch, "video": video, "label": label}
            yield batch

    def _check_batch(self, is_empty: int) -> None:
        if is_empty:
            self.bad_videos.share()
            raise UserError("no video of a batch could be read, nor any in their place")

    # ---------------------------------------------------------------- and its end

    def _finish_epoch(self, stop: StopRequest) -> None:
        """Does what is due after the last step: precise BN, validation, checkpoint.

        Validation comes before the checkpoint of the epoch, which holds its errors. As it can be
        interrupted, the last step is saved before it.
        """
        plan, done = self.plan, self.progress.epoch + 1
        is_last = done == self.progress.max_epoch
        saves = is_last or done % plan.checkpoint_period == 0
        validates = self.validation is not None and (is_last or done % plan.validation_period == 0)
        if saves or validates:
            share_buffers(*self.models)
            self._update_statistics(stop)
        is_best = False
        if validates:
            if saves:
                self.checkpoints.save(is_final=False)
            is_best = self._validate(stop)
        self.progress.epoch_done()
        if saves or is_best:
            self.checkpoints.save(best=is_best, due=saves)

    def _update_statistics(self, stop: StopRequest) -> None:
        """Recomputes batch-norm statistics, if asked for or if an overflow in fp16 spoilt them."""
        is_wanted = self.plan.precise_bn
        if not is_wanted and self.step.precision == "fp16":
            is_wanted = not all(has_finite_statistics(model) for model in self.models)
        if is_wanted:
            with autocast(self.step.transfer.device, self.step.precision):
                count = update_bn_statistics(self.models, self._precise_bn_batches(stop))
            logger.info("Precise batch norm over %d batches of each process", count)

    def _precise_bn_batches(self, stop: StopRequest) -> Iterator[Tensor]:
        count = min(self.plan.precise_batches, self.progress.steps_per_epoch)
        self.progress.sampler.set_epoch(self.progress.epoch)
        batches = islice(self._train_batches(), count)
        for batch in tqdm(
            batches, total=count, desc="precise BN", leave=False, disable=not is_terminal()
        ):
            signum, is_empty = all_max(stop.signum(), not len(batch["index"]))
            self._check_batch(is_empty)
            raise_if_preempted(signum)
            yield self.step.transfer(batch)[0]

    def _validate(self, stop: StopRequest) -> bool:
        """Validates one centre view of each video, with the averaged weights if there are any.

        Returns whether the error is the lowest so far.
        """
        validation = self.validation
        assert validation is not None
        self.evaluated.eval()
        self._begin_pass("val", validation.loader)
        scorer = Scorer(self.evaluated, validation.protocol, compiled=validation.compiled)
        bar = tqdm(validation.loader, desc="validation", leave=False, disable=not is_terminal())
        report = self.log.begin_validation(len(validation.loader))
        errors = validate(scorer, stop.watch(bar), self.bad_videos, validation.loss, report)
        if not errors:
            return False
        is_finite = "num_nonfinite" not in errors
        is_best = is_finite and self.progress.record_errors(errors["top1_err"], errors["top5_err"])
        self.log.log_validation(errors)
        if not is_finite:
            self._check_scores(int(errors["num_nonfinite"]), int(errors["num_videos"]))
        return is_best

    def _check_scores(self, lost: int, count: int) -> None:
        """Ends the run after a validation that has no error, unless a few scores may be lost."""
        text = (
            f"validation: the scores of {lost} of {count} videos are nan or inf, so it has no error"
        )
        epoch = self.progress.epoch + 1
        if self.plan.skips_lost and lost < count:
            logger.warning("Epoch %d, %s", epoch, text)
            return
        raise UserError(
            f"epoch {epoch}, {text}: lower SOLVER.BASE_LR, or set TRAIN.PRECISION fp32 if it is "
            f"not. The newest checkpoint is {self.checkpoints.newest}; if its weights are lost, "
            "remove it, and the run resumes from the one before"
        )

    # ---------------------------------------------------------------- small parts

    def _begin_pass(self, split: str, loader: VideoLoader[Batch]) -> None:
        self.bad_videos.begin(split, self.progress.epoch + 1, len(loader.dataset.videos))

    def _save(self) -> None:
        self._check_loss(self.log.meters["steps"].read()["loss"])
        self.checkpoints.save()

    def _log_steps(self) -> None:
        """Reports the steps. In the loop, only this and `_save` wait for the device."""
        self.bad_videos.share()
        stats = self.log.read("steps")
        self._check_loss(stats["loss"])
        self.recent.clear()
        self.log.log_steps(stats)

    def _log_epoch(self) -> None:
        # An earlier part of the run may have done so. The count of one process may be the count of
        # all processes of an earlier part.
        [count] = all_max(self.log.meters["epoch"].count)
        if not count:
            return
        stats = self.log.read("epoch")
        self._check_loss(stats["loss"])
        self.recent.clear()
        self.bad_videos.share()
        self.log.log_epoch(stats, self.train_loader.num_workers)

    def _check_loss(self, loss: float) -> None:
        """Runs before a checkpoint is written, so that no run resumes from lost weights."""
        failure = self.step.update.failure(loss)
        if not failure and not self.step.update.skipping:
            return
        where = self.recent.first_lost()
        if failure:
            raise UserError(
                f"{failure}: lower SOLVER.BASE_LR or set SOLVER.CLIP_GRAD_L2NORM. It was so at "
                f"{where or f'epoch {self.progress.epoch + 1}'}"
            )
        if where:
            logger.warning("The loss is not finite, nothing is learnt from %s", where)
            self.recent.clear()
