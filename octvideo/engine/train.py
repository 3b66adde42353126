"""Training: epochs of steps, precise batch norm, checkpoints and validation."""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from tqdm import tqdm

from octvideo.config import describe_scaling, dump, train_precision
from octvideo.data import build_train_loader, build_val_loader, normalization, normalize
from octvideo.data.labels import class_names_beside
from octvideo.engine.averaging import WeightAverage, has_finite_statistics, update_bn_statistics
from octvideo.engine.bad_videos import BadVideos
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
from octvideo.engine.interrupt import Interrupted, StopRequest
from octvideo.engine.losses import build_loss
from octvideo.engine.meters import (
    Clock,
    TrainMeter,
    loader_bound,
    readable_time,
    top_k_correct,
)
from octvideo.engine.mixup import build_mixup, mixing_generator
from octvideo.engine.optim import build_optimizer, build_schedule, set_lr
from octvideo.engine.precision import Evaluation, autocast, channels_last, compile_model
from octvideo.engine.start import start_run
from octvideo.engine.step import OptimizerStep
from octvideo.engine.tensorboard import build_writer
from octvideo.models import build_model
from octvideo.utils.complexity import count
from octvideo.utils.dist import is_main, rank, world_size
from octvideo.utils.errors import UserError
from octvideo.utils.log import is_terminal, log_json_stats, memory_stats
from octvideo.weights import load_into, read_weights

logger = logging.getLogger("octvideo")


def run_train(cfg: CfgNode) -> Path:
    """Trains the model of ``cfg``, or continues an earlier run of the same OUTPUT_DIR.

    Returns:
        The checkpoint of the finished run.

    Raises:
        Interrupted: a signal came; the checkpoint to continue from has been written.
        ConfigError, CheckpointError, ValueError: the message says what to change.
    """
    device = start_run(cfg)
    line, warning = describe_scaling(cfg)
    logger.info(line)
    if warning:
        logger.warning(warning)
    trainer = Trainer(cfg, device)
    trainer.start()
    with StopRequest() as stop:
        return trainer.run(stop)


def log_model_info(model: nn.Module, cfg: CfgNode) -> None:
    """Parameters and multiply-adds of one training clip."""
    size = cfg.DATA.TRAIN_CROP_SIZE
    shape = (1, cfg.DATA.INPUT_CHANNEL_NUM[0], cfg.DATA.NUM_FRAMES, size, size)
    cost = count(model, shape)
    text = "%s: %.3f M parameters, %.3f G multiply-adds for a clip of %s"
    name = f"Oct-{cfg.MODEL.ARCH} (alpha {cfg.OCTAVE.ALPHA:g})"
    logger.info(
        text,
        name if cfg.OCTAVE.ENABLE else cfg.MODEL.ARCH,
        cost.params / 1e6,
        cost.macs / 1e9,
        "x".join(map(str, shape[1:])),
    )


class Trainer:
    """The state of a training run: model, optimizer, and how far it is.

    ``epoch`` counts finished epochs, ``step`` the finished steps of the one under way; between
    two steps they say exactly what ``save`` has to write and where a later run goes on.
    """

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self.output_dir = Path(cfg.OUTPUT_DIR)
        self.checkpoints = self.output_dir / "checkpoints"
        self.model = build_model(cfg)
        if cfg.LOG_MODEL_INFO:
            log_model_info(self.model, cfg)
        self.model.to(device, memory_format=torch.channels_last_3d)
        self.optimizer = build_optimizer(self.model, cfg)
        self.schedule = build_schedule(cfg)
        self.mixup = build_mixup(cfg)
        self.precision = train_precision(cfg)
        self.optimizer_step = OptimizerStep(
            self.model,
            self.optimizer,
            build_loss(cfg.MODEL.LOSS_FUNC),
            device,
            self.precision,
            parts=cfg.TRAIN.ACCUMULATE_STEPS,
            clip_value=cfg.SOLVER.CLIP_GRAD_VAL,
            clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
        )
        self.average = WeightAverage(self.model, cfg.EMA.DECAY) if cfg.EMA.ENABLE else None
        self.evaluated = self.average.model if self.average else self.model
        if cfg.TRAIN.COMPILE:
            for model in {self.model, self.evaluated}:
                compile_model(model)
        self.train_loader = build_train_loader(cfg, rank(), world_size())
        self.val_loader = None
        if cfg.TRAIN.EVAL_PERIOD:
            self.val_loader = build_val_loader(cfg, rank(), world_size())
        self.class_names = class_names_beside(cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES)
        self.steps_per_epoch = len(self.train_loader)
        self.writer = build_writer(cfg)
        skip_lost = self.precision == "fp16"
        self.meter, self.clock = TrainMeter(device, skip_lost), Clock(device)
        self.epoch_meter, self.epoch_clock = TrainMeter(device, skip_lost), Clock(device)
        self.bad_videos = BadVideos()
        self.epoch = self.step = 0
        self.min_errors = {"min_top1_err": 100.0, "min_top5_err": 100.0}
        self.newest: Path | None = None

    # ---------------------------------------------------------------- start, save

    def start(self) -> None:
        """Continues the newest checkpoint of OUTPUT_DIR, or begins from a file, or from scratch.

        A run from TRAIN.CHECKPOINT_FILE_PATH is a new one: epoch 0, new optimizer.
        """
        remove_leftovers(self.checkpoints)
        newest = load_newest(self.checkpoints) if self.cfg.TRAIN.AUTO_RESUME else None
        if not self.cfg.TRAIN.AUTO_RESUME and list_checkpoints(self.checkpoints):
            logger.warning("%s holds checkpoints of an earlier run", self.checkpoints)
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
            self.optimizer_step.scaler.load_state_dict(state)
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
        path = checkpoint_path(self.checkpoints, self.epoch, self.step)
        if not is_main():
            return path
        content: dict[str, Any] = {
            "epoch": self.epoch if self.step else self.epoch - 1,
            "step": self.step,
            "model_state": self.model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.optimizer_step.scaler.state_dict(),
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
        remove_superseded(self.checkpoints, path, self.cfg.TRAIN.KEEP_CHECKPOINTS)
        logger.info("Saved %s", path)
        return path

    # ---------------------------------------------------------------- the loop

    def run(self, stop: StopRequest) -> Path:
        """Trains until SOLVER.MAX_EPOCH, or until ``stop`` asks: then it saves and raises.

        Returns the newest checkpoint.
        """
        try:
            while self.epoch < self.cfg.SOLVER.MAX_EPOCH:
                self._train_epoch(stop)
                self._finish_epoch(stop)
        except Interrupted:
            self._check_loss(self.meter.read()["loss"])
            if self.epoch or self.step:
                self.save()
            raise
        finally:
            self.bad_videos.summarize()
            self.writer.close()
        logger.info("Training done: %d epochs", self.epoch)
        assert self.newest is not None
        return self.newest

    def _train_epoch(self, stop: StopRequest) -> None:
        self.model.train()
        self._reset_meters()
        self.train_loader.sampler.set_epoch(self.epoch, self.step)
        bar = self._progress(f"epoch {self.epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}")
        for batch in self.train_loader:
            self._clocks("data_arrived")
            self.bad_videos.add(batch["bad"])
            if len(batch["label"]) == 0:
                raise UserError("no video of a batch could be read, nor any in their place")
            self._train_step(batch)
            self._clocks("step_done")
            self.step += 1
            bar.update()
            if self.step % self.cfg.LOG_PERIOD == 0:
                self._log_steps(bar)
            stop.check()
        bar.close()

    def _train_step(self, batch: dict[str, Any]) -> None:
        """One optimizer step on a batch of this process."""
        set_lr(self.optimizer, self._lr())
        video, targets = self._to_device(batch)
        if self.mixup:
            rng = mixing_generator(self.cfg.RNG_SEED, self.epoch, self.step, rank())
            video, targets = self.mixup(video, targets, rng)
        self.optimizer_step(video, targets, (self.meter, self.epoch_meter))
        if self.average:
            self.average.update()

    def _finish_epoch(self, stop: StopRequest) -> None:
        """After the last step: log, precise BN, validation, checkpoint, where they are due.

        Validation comes before the checkpoint of the epoch, which holds its errors; that it can
        be interrupted is why the last step is saved before it.
        """
        cfg, done = self.cfg, self.epoch + 1
        self._log_epoch()
        last = done == cfg.SOLVER.MAX_EPOCH
        saves = last or done % cfg.TRAIN.CHECKPOINT_PERIOD == 0
        validates = self.val_loader is not None and (last or done % cfg.TRAIN.EVAL_PERIOD == 0)
        if (saves or validates) and self._wants_statistics():
            models = list({self.model, self.evaluated})
            with autocast(self.device, self.precision):
                count = update_bn_statistics(models, self._precise_bn_batches(stop))
            logger.info("Precise batch norm over %d batches", count)
        if validates:
            if saves:
                self.save()
            self._validate(stop)
        self.epoch, self.step = done, 0
        if saves:
            self.save()

    def _wants_statistics(self) -> bool:
        """Where asked for, and to mend what a batch that overflowed fp16 has done to them."""
        if self.cfg.BN.USE_PRECISE_STATS or self.precision != "fp16":
            return self.cfg.BN.USE_PRECISE_STATS
        return not (has_finite_statistics(self.model) and has_finite_statistics(self.evaluated))

    def _precise_bn_batches(self, stop: StopRequest) -> Iterator[Tensor]:
        self.train_loader.sampler.set_epoch(self.epoch)
        count = min(self.cfg.BN.NUM_BATCHES_PRECISE, self.steps_per_epoch)
        for batch in tqdm(
            islice(self.train_loader, count),
            total=count,
            desc="precise BN",
            leave=False,
            disable=not is_terminal(),
        ):
            stop.check()
            yield self._to_device(batch)[0]

    @torch.no_grad()
    def _validate(self, stop: StopRequest) -> None:
        """One centre clip and centre crop of each video, with the average of the weights if any."""
        self.evaluated.eval()
        evaluate = Evaluation(self.evaluated, self.device, self.precision, self.cfg.TRAIN.COMPILE)
        correct, count = torch.zeros(2, dtype=torch.long, device=self.device), 0
        loader: Iterable[dict[str, Any]] = self.val_loader
        for batch in tqdm(loader, desc="validation", leave=False, disable=not is_terminal()):
            stop.check()
            self.bad_videos.add(batch["bad"])
            if len(batch["label"]) == 0:
                continue
            video, labels = self._to_device(batch)
            correct += top_k_correct(evaluate(video), labels)
            count += len(labels)
        if not count:
            logger.warning("Validation: none of the videos of val.csv could be read")
            return
        top1, top5 = (100 * (1 - correct / count)).tolist()
        self.min_errors["min_top1_err"] = min(self.min_errors["min_top1_err"], top1)
        self.min_errors["min_top5_err"] = min(self.min_errors["min_top5_err"], top5)
        stats = {"top1_err": top1, "top5_err": top5}
        logger.info("Epoch %d: validation top-1 error %.2f %%", self.epoch + 1, top1)
        self._log("val_epoch", {**stats, **self.min_errors, "num_videos": count})
        self._write_scalars("Val", stats)

    # ---------------------------------------------------------------- small parts

    def _lr(self) -> float:
        return self.schedule(self.epoch + self.step / self.steps_per_epoch)

    def _to_device(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        video = batch["video"].to(self.device, non_blocking=True)
        labels = batch["label"].to(self.device, non_blocking=True)
        return channels_last(normalize(video, **normalization(self.cfg))), labels

    def _reset_meters(self) -> None:
        for meter in (self.meter, self.epoch_meter, self.clock, self.epoch_clock):
            meter.reset()
        self.optimizer_step.scaler.skipped.zero_()

    def _clocks(self, event: str) -> None:
        for clock in (self.clock, self.epoch_clock):
            getattr(clock, event)()

    def _progress(self, title: str) -> tqdm:
        return tqdm(
            total=self.steps_per_epoch, initial=self.step, desc=title, disable=not is_terminal()
        )

    def _log_steps(self, bar: tqdm) -> None:
        """The one place of the loop that waits for the device."""
        stats = {
            **self.meter.read(),
            **self.clock.read(),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self._check_loss(stats["loss"])
        stats["grad_norm"] = self.optimizer_step.grad_norm()
        stats.update(self.optimizer_step.scaling())
        eta = readable_time(stats["dt"] * self._steps_left())
        waits = loader_bound(stats)
        bar.set_postfix_str(f"loss {stats['loss']:.3f}, eta {eta}" + (waits and f", {waits}"))
        iteration = f"{self.step}/{self.steps_per_epoch}"
        self._log("train_iter", {**stats, "iter": iteration, "eta": eta})
        self._write_scalars("Train", stats)
        self.meter.reset()
        self.clock.reset()

    def _log_epoch(self) -> None:
        if not self.epoch_meter.count:  # a run that was stopped after the last step
            return
        stats = {**self.epoch_meter.read(), **self.epoch_clock.read()}
        stats["lr"] = self.optimizer.param_groups[0]["lr"]
        stats.update(self.optimizer_step.scaling())
        self._check_loss(stats["loss"])
        logger.info(
            "Epoch %d: loss %.4f, top-1 error %.2f %%, %.3f s a step (%.3f s of it for data)",
            self.epoch + 1,
            stats["loss"],
            stats["top1_err"],
            stats["dt"],
            stats["dt_data"],
        )
        if skipped := stats.get("skipped_steps"):
            text = "Epoch %d: %d steps skipped, as gradients overflowed fp16; loss scale now %g"
            logger.info(text, self.epoch + 1, skipped, stats["loss_scale"])
        if waits := loader_bound(stats):
            logger.info(
                "%s of the time the device waited for data. Raise DATA_LOADER.NUM_WORKERS (%d "
                "processes read), or make the videos quick to read by tools/prepare_dataset.py",
                waits,
                self.train_loader.num_workers,
            )
        eta = readable_time(stats["dt"] * self._steps_left())
        self._log("train_epoch", {**stats, "eta": eta})

    def _check_loss(self, loss: float) -> None:
        """Before a checkpoint is written, so that no run goes on from weights that are lost."""
        if failure := self.optimizer_step.failure(loss):
            raise UserError(
                f"{failure} at epoch {self.epoch + 1}, step {self.step}: "
                f"lower SOLVER.BASE_LR or set SOLVER.CLIP_GRAD_L2NORM"
            )

    def _log(self, kind: str, stats: dict[str, Any]) -> None:
        header = {"_type": kind, "epoch": f"{self.epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}"}
        log_json_stats({**header, **stats, **memory_stats(self.device)}, self.output_dir)

    def _write_scalars(self, prefix: str, stats: dict[str, float]) -> None:
        names = {"loss": "loss", "lr": "lr", "top1_err": "Top1_err", "top5_err": "Top5_err"}
        steps = self.epoch * self.steps_per_epoch + self.step
        count = steps if prefix == "Train" else self.epoch + 1
        for key, name in names.items():
            if key in stats:
                self.writer.add_scalar(f"{prefix}/{name}", stats[key], count)

    def _steps_left(self) -> int:
        return (self.cfg.SOLVER.MAX_EPOCH - self.epoch) * self.steps_per_epoch - self.step
