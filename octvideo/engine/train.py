"""Training: epochs of steps, precise batch norm, checkpoints and validation."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from tqdm import tqdm

from octvideo.config import (
    batch_per_process,
    describe_scaling,
    input_shape,
    train_precision,
)
from octvideo.data import (
    VideoLoader,
    build_train_loader,
    build_val_loader,
    data_class_names,
)
from octvideo.data.protocol import build_protocol
from octvideo.distributed.collectives import all_max, is_main, rank, world_size
from octvideo.distributed.data_parallel import share_buffers, share_weights
from octvideo.distributed.preemption import Preempted, StopRequest, raise_if_preempted
from octvideo.distributed.run_lock import training_lock
from octvideo.engine.averaging import WeightAverage, has_finite_statistics, update_bn_statistics
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.log import is_terminal
from octvideo.engine.losses import build_loss, loss_of_scores
from octvideo.engine.meters import TrainMeter
from octvideo.engine.mixup import build_mixup, mixing_generator
from octvideo.engine.nonfinite import RecentLosses
from octvideo.engine.optim import build_optimizer, build_schedule, set_lr
from octvideo.engine.precision import (
    autocast,
    channels_last,
    compile_model,
    move_model,
)
from octvideo.engine.run_state import RunState
from octvideo.engine.scorer import Scorer
from octvideo.engine.start import Build, start_run, write_config
from octvideo.engine.step import OptimizerStep
from octvideo.engine.train_log import TrainLog
from octvideo.engine.validate import validate
from octvideo.models import build_model
from octvideo.utils.complexity import count
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")


def run_train(cfg: CfgNode, build: Build = build_model) -> Path:
    """Trains the model of ``cfg``, or continues an earlier run of the same OUTPUT_DIR.

    Args:
        build: makes the network of a configuration; a study may train a variant of it.

    Returns:
        The checkpoint of the finished run.

    Raises:
        Preempted: a signal came; the checkpoint to continue from has been written.
        UserError: another process trains in OUTPUT_DIR.
        ConfigError, CheckpointError, ValueError: the message says what to change.
    """
    with training_lock(Path(cfg.OUTPUT_DIR)):
        return _train(cfg, build)


def _train(cfg: CfgNode, build: Build) -> Path:
    device = start_run(cfg)
    line, warning = describe_scaling(cfg)
    logger.info(line)
    if warning and is_main():
        logger.warning(warning)
    trainer = Trainer(cfg, device, build)
    trainer.start()
    write_config(cfg)
    with StopRequest() as stop:
        return trainer.run(stop)


def log_model_info(model: nn.Module, cfg: CfgNode) -> None:
    """Parameters and multiply-adds of one training clip or picture."""
    shape = input_shape(cfg)
    cost = count(model, (1, *shape))
    name = cfg.MODEL.MODEL_NAME if cfg.MODEL.ARCH == "2d" else cfg.MODEL.ARCH
    logger.info(
        "%s: %.3f M parameters, %.3f G multiply-adds for a clip of %s",
        f"Oct-{name} (alpha {cfg.OCTAVE.ALPHA:g})" if cfg.OCTAVE.ENABLE else name,
        cost.params / 1e6,
        cost.macs / 1e9,
        "x".join(map(str, shape)),
    )


class Trainer:
    """The loop of a training run; what it has come to is in ``state``."""

    def __init__(self, cfg: CfgNode, device: torch.device, build: Build = build_model) -> None:
        self.cfg, self.device = cfg, device
        self.model = build(cfg)
        if cfg.LOG_MODEL_INFO:
            log_model_info(self.model, cfg)
        move_model(self.model, device)
        self.optimizer = build_optimizer(self.model, cfg)
        self.schedule = build_schedule(cfg)
        self.mixup = build_mixup(cfg)
        self.precision, self.protocol = train_precision(cfg), build_protocol(cfg)
        self.optimizer_step = OptimizerStep(
            self.model,
            self.optimizer,
            build_loss(cfg.MODEL.LOSS_FUNC),
            device,
            self.precision,
            parts=cfg.TRAIN.ACCUMULATE_STEPS,
            clip_value=cfg.SOLVER.CLIP_GRAD_VAL,
            clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
            skip_nonfinite=cfg.TRAIN.NONFINITE_LOSS == "skip",
        )
        self.average = WeightAverage(self.model, cfg.EMA.DECAY) if cfg.EMA.ENABLE else None
        self.evaluated = self.average.model if self.average else self.model
        self.models = list(dict.fromkeys([self.model, self.evaluated]))  # in the order of all ranks
        if cfg.TRAIN.COMPILE:
            for model in self.models:
                compile_model(model)
        self.train_loader = build_train_loader(cfg, rank(), world_size())
        self.val_loader = None
        if cfg.TRAIN.EVAL_PERIOD:
            self.val_loader = build_val_loader(cfg, rank(), world_size())
        self.skip_lost = self.precision == "fp16" or cfg.TRAIN.NONFINITE_LOSS == "skip"
        self.meters = {name: TrainMeter(device, self.skip_lost) for name in ("steps", "epoch")}
        self.recent = RecentLosses(self.train_loader.dataset.videos.path)
        self.bad_videos = BadVideos(Path(cfg.OUTPUT_DIR), cfg.DATA.MAX_BAD_FRACTION)
        self.state = RunState(
            cfg,
            device,
            self.model,
            self.optimizer,
            self.optimizer_step.scaler,
            self.average,
            self.train_loader.sampler,
            self.meters,
            data_class_names(cfg),
        )

    def start(self) -> None:
        """Continues the newest checkpoint of OUTPUT_DIR, or begins from a file, or from scratch."""
        self.state.start()
        share_weights(*self.models)
        self.log = TrainLog(self.cfg, self.device, self.state, self.optimizer_step)

    def run(self, stop: StopRequest) -> Path:
        """Trains until SOLVER.MAX_EPOCH, or until ``stop`` asks: then it saves and raises.

        Returns the newest checkpoint.
        """
        if self.state.is_finished:
            text = "%s holds %d epochs already, SOLVER.MAX_EPOCH is %d: there is nothing to train"
            logger.info(text, self.state.newest, self.state.epoch, self.cfg.SOLVER.MAX_EPOCH)
            self.log.close()
        else:
            self._train(stop)
        assert self.state.newest is not None
        return self.state.newest

    def _train(self, stop: StopRequest) -> None:
        try:
            while not self.state.is_finished:
                self._train_epoch(stop)
                self._finish_epoch(stop)
        except Preempted:
            if self.state.epoch or self.state.step:
                self._save()
            raise
        finally:
            self.bad_videos.close()
            self.log.close()
        logger.info("Training done: %d epochs", self.state.epoch)

    # ---------------------------------------------------------------- an epoch's steps

    def _train_epoch(self, stop: StopRequest) -> None:
        self.model.train()
        self.train_loader.sampler.set_epoch(self.state.epoch, self.state.samples)
        self._begin_pass("train", self.train_loader)
        with self.log.begin_epoch():
            for batch in self._train_batches():
                self.log.data_arrived()
                self._train_step(batch)
                self.log.step_done()
                self.state.step_done()
                if self.log.is_due():
                    self._log_steps()
                signum, save_is_due = all_max(stop.signum(), self.state.save_is_due())
                raise_if_preempted(signum)
                if save_is_due:
                    self._save()

    def _train_batches(self) -> Iterator[dict[str, Any]]:
        """Those of the loader, each as large as it should be, as all processes weigh the same.

        In the place of clips that could not be read are others of the batch once more. Where one
        process has none, all of them raise.
        """
        size = batch_per_process(self.cfg) * self.cfg.AUG.NUM_SAMPLE
        for batch in self.train_loader:
            self.bad_videos.add(batch)
            found = len(batch["label"])
            # A word of its own beside that of the check after each step, which comes before the
            # wait for data: a run that is asked to stop may have no time for that.
            if all_max(not found)[0]:
                self.bad_videos.share()
                raise UserError("no video of a batch could be read, nor any in their place")
            if found < size:
                places = torch.arange(size) % found
                batch = {**batch, **{key: batch[key][places] for key in ("video", "label")}}
            yield batch

    def _train_step(self, batch: dict[str, Any]) -> None:
        """One optimizer step on a batch of this process."""
        set_lr(self.optimizer, self.schedule(self.state.position))
        video, targets = self._to_device(batch)
        if self.mixup:
            rng = mixing_generator(self.cfg.RNG_SEED, self.state.epoch, self.state.step, rank())
            video, targets = self.mixup(video, targets, rng)
        loss = self.optimizer_step(video, targets, list(self.meters.values()))
        self.recent.add(self.state.epoch + 1, self.state.step + 1, loss, batch["index"].tolist())
        if self.average:
            self.average.update()

    # ---------------------------------------------------------------- and its end

    def _finish_epoch(self, stop: StopRequest) -> None:
        """After the last step: log, precise BN, validation, checkpoint, where they are due.

        Validation comes before the checkpoint of the epoch, which holds its errors; that it can
        be interrupted is why the last step is saved before it.
        """
        cfg, done = self.cfg, self.state.epoch + 1
        self._log_epoch()
        last = done == cfg.SOLVER.MAX_EPOCH
        saves = last or done % cfg.TRAIN.CHECKPOINT_PERIOD == 0
        validates = self.val_loader is not None and (last or done % cfg.TRAIN.EVAL_PERIOD == 0)
        if saves or validates:
            share_buffers(*self.models)
        if (saves or validates) and self._wants_statistics():
            with autocast(self.device, self.precision):
                count = update_bn_statistics(self.models, self._precise_bn_batches(stop))
            logger.info("Precise batch norm over %d batches of each process", count)
        is_best = False
        if validates:
            if saves:
                self.state.save(is_final=False)
            is_best = self._validate(stop)
        self.state.epoch_done()
        if saves or is_best:
            self.state.save(best=is_best, due=saves)

    def _wants_statistics(self) -> bool:
        """Where asked for, and to mend what a batch that overflowed fp16 has done to them."""
        if self.cfg.BN.USE_PRECISE_STATS or self.precision != "fp16":
            return self.cfg.BN.USE_PRECISE_STATS
        return not (has_finite_statistics(self.model) and has_finite_statistics(self.evaluated))

    def _precise_bn_batches(self, stop: StopRequest) -> Iterator[Tensor]:
        self.train_loader.sampler.set_epoch(self.state.epoch)
        count = min(self.cfg.BN.NUM_BATCHES_PRECISE, self.state.steps_per_epoch)
        for batch in tqdm(
            islice(self._train_batches(), count),
            total=count,
            desc="precise BN",
            leave=False,
            disable=not is_terminal(),
        ):
            stop.check()
            yield self._to_device(batch)[0]

    def _validate(self, stop: StopRequest) -> bool:
        """One centre clip and centre crop of each video, with the average of the weights if any.

        Returns whether the error is the lowest so far.
        """
        assert self.val_loader is not None
        self.evaluated.eval()
        self._begin_pass("val", self.val_loader)
        protocol = replace(self.protocol.one_view(), precision=self.precision)
        scorer = Scorer(self.evaluated, protocol, compiled=self.cfg.TRAIN.COMPILE)
        bar = tqdm(self.val_loader, desc="validation", leave=False, disable=not is_terminal())
        loss = partial(
            loss_of_scores,
            head_act=self.cfg.MODEL.HEAD_ACT,
            loss=build_loss(self.cfg.MODEL.LOSS_FUNC),
        )
        progress = self.log.begin_validation(len(self.val_loader))
        errors = validate(scorer, stop.watch(bar), self.bad_videos, loss, progress)
        if not errors:
            return False
        is_finite = "num_nonfinite" not in errors
        is_best = is_finite and self.state.record_errors(errors["top1_err"], errors["top5_err"])
        self.log.tell_validation(errors)
        if not is_finite:
            self._check_scores(errors["num_nonfinite"], errors["num_videos"])
        return is_best

    def _check_scores(self, lost: int, count: int) -> None:
        """A validation of which no error can be given ends the run, unless a few may be lost."""
        text = (
            f"validation: the scores of {lost} of {count} videos are nan or inf, so it has no error"
        )
        if self.skip_lost and lost < count:
            logger.warning("Epoch %d, %s", self.state.epoch + 1, text)
            return
        raise UserError(
            f"epoch {self.state.epoch + 1}, {text}: lower SOLVER.BASE_LR, or set TRAIN.PRECISION "
            f"fp32 if it is not. The newest checkpoint is {self.state.newest}; if its weights are "
            "lost, remove it, and the run resumes from the one before"
        )

    # ---------------------------------------------------------------- small parts

    def _begin_pass(self, split: str, loader: VideoLoader) -> None:
        self.bad_videos.begin(split, self.state.epoch + 1, len(loader.dataset.videos))

    def _to_device(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        video = batch["video"].to(self.device, non_blocking=True)
        labels = batch["label"].to(self.device, non_blocking=True)
        return channels_last(self.protocol.normalized(video)), labels

    def _save(self) -> None:
        self._check_loss(self.meters["steps"].read()["loss"])
        self.state.save()

    def _log_steps(self) -> None:
        """The one place of the loop that waits for the device."""
        self.bad_videos.share()
        stats = self.log.read("steps")
        self._check_loss(stats["loss"])
        self.recent.clear()
        self.log.tell_steps(stats)

    def _log_epoch(self) -> None:
        # It has been, by the run that goes on here. The count of one process may be that of all
        # those of an earlier run.
        if not all_max(self.meters["epoch"].count)[0]:
            return
        stats = self.log.read("epoch")
        self._check_loss(stats["loss"])
        self.recent.clear()
        self.bad_videos.share()
        self.log.tell_epoch(stats, self.train_loader.num_workers)

    def _check_loss(self, loss: float) -> None:
        """Before a checkpoint is written, so that no run goes on from weights that are lost."""
        failure = self.optimizer_step.failure(loss)
        if not failure and not self.optimizer_step.skipping:
            return
        where = self.recent.first_lost()
        if failure:
            raise UserError(
                f"{failure}: lower SOLVER.BASE_LR or set SOLVER.CLIP_GRAD_L2NORM. It was so at "
                f"{where or f'epoch {self.state.epoch + 1}'}"
            )
        if where:
            logger.warning("The loss is not finite, nothing is learnt from %s", where)
            self.recent.clear()
