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

from octvideo.config import (
    batch_per_process,
    describe_scaling,
    has_pictures,
    input_shape,
    train_precision,
)
from octvideo.data import (
    VideoLoader,
    build_train_loader,
    build_val_loader,
    data_class_names,
    normalization,
    normalize,
)
from octvideo.engine.averaging import WeightAverage, has_finite_statistics, update_bn_statistics
from octvideo.engine.bad_videos import BadVideos
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
from octvideo.engine.nonfinite import RecentLosses
from octvideo.engine.optim import build_optimizer, build_schedule, set_lr
from octvideo.engine.parallel import share_buffers, share_weights
from octvideo.engine.precision import (
    Evaluation,
    autocast,
    channels_last,
    compile_model,
    move_model,
)
from octvideo.engine.run_state import RunState
from octvideo.engine.start import start_run, write_config
from octvideo.engine.step import OptimizerStep
from octvideo.engine.tensorboard import build_writer
from octvideo.models import build_model
from octvideo.utils.complexity import count
from octvideo.utils.dist import all_reduce, is_main, largest, rank, world_size
from octvideo.utils.errors import UserError
from octvideo.utils.log import is_terminal, log_json_stats, memory_stats

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
    if warning and is_main():
        logger.warning(warning)
    trainer = Trainer(cfg, device)
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
        "%s: %.3f M parameters, %.3f G multiply-adds for a %s of %s",
        f"Oct-{name} (alpha {cfg.OCTAVE.ALPHA:g})" if cfg.OCTAVE.ENABLE else name,
        cost.params / 1e6,
        cost.macs / 1e9,
        "picture" if has_pictures(cfg) else "clip",
        "x".join(map(str, shape)),
    )


class Trainer:
    """The loop of a training run; what it has come to is in ``state``."""

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self.output_dir = Path(cfg.OUTPUT_DIR)
        self.model = build_model(cfg)
        if cfg.LOG_MODEL_INFO:
            log_model_info(self.model, cfg)
        move_model(self.model, device)
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
        self.steps_per_epoch = len(self.train_loader)
        skip_lost = self.precision == "fp16" or cfg.TRAIN.NONFINITE_LOSS == "skip"
        self.meter, self.clock = TrainMeter(device, skip_lost), Clock(device)
        self.epoch_meter, self.epoch_clock = TrainMeter(device, skip_lost), Clock(device)
        self.recent = RecentLosses(self.train_loader.dataset.videos.path)
        self.bad_videos = BadVideos(self.output_dir, cfg.DATA.MAX_BAD_FRACTION)
        self.state = RunState(
            cfg,
            device,
            self.model,
            self.optimizer,
            self.optimizer_step.scaler,
            self.average,
            self.train_loader.sampler,
            {"steps": self.meter, "epoch": self.epoch_meter},
            data_class_names(cfg),
        )

    def start(self) -> None:
        """Continues the newest checkpoint of OUTPUT_DIR, or begins from a file, or from scratch."""
        self.state.start()
        share_weights(*self.models)
        self.writer = build_writer(self.cfg, self._steps_done())

    # ---------------------------------------------------------------- the loop

    def run(self, stop: StopRequest) -> Path:
        """Trains until SOLVER.MAX_EPOCH, or until ``stop`` asks: then it saves and raises.

        Returns the newest checkpoint.
        """
        try:
            while self.state.epoch < self.cfg.SOLVER.MAX_EPOCH:
                self._train_epoch(stop)
                self._finish_epoch(stop)
        except Interrupted:
            if self.state.epoch or self.state.step:
                self._save()
            raise
        finally:
            self.bad_videos.close()
            self.writer.close()
        logger.info("Training done: %d epochs", self.state.epoch)
        assert self.state.newest is not None
        return self.state.newest

    def _train_epoch(self, stop: StopRequest) -> None:
        self.model.train()
        self._reset_clocks()
        self.train_loader.sampler.set_epoch(self.state.epoch, self.state.samples)
        self._begin_pass("train", self.train_loader)
        bar = self._progress(f"epoch {self.state.epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}")
        for batch in self._train_batches():
            self._clocks("data_arrived")
            self._train_step(batch)
            self._clocks("step_done")
            self.state.step_done()
            bar.update()
            if self.state.step % self.cfg.LOG_PERIOD == 0:
                self._log_steps(bar)
            if stop.check(self.state.save_is_due()):
                self._save()
        bar.close()

    def _train_batches(self) -> Iterator[dict[str, Any]]:
        """Those of the loader, each as large as it should be, as all processes weigh the same.

        In the place of clips that could not be read are others of the batch once more. Where one
        process has none, all of them raise.
        """
        size = batch_per_process(self.cfg) * self.cfg.AUG.NUM_SAMPLE
        for batch in self.train_loader:
            self.bad_videos.add(batch)
            found = len(batch["label"])
            if largest(not found):
                self.bad_videos.share()
                raise UserError("no video of a batch could be read, nor any in their place")
            if found < size:
                places = torch.arange(size) % found
                batch = {**batch, **{key: batch[key][places] for key in ("video", "label")}}
            yield batch

    def _train_step(self, batch: dict[str, Any]) -> None:
        """One optimizer step on a batch of this process."""
        set_lr(self.optimizer, self._lr())
        video, targets = self._to_device(batch)
        if self.mixup:
            rng = mixing_generator(self.cfg.RNG_SEED, self.state.epoch, self.state.step, rank())
            video, targets = self.mixup(video, targets, rng)
        loss = self.optimizer_step(video, targets, (self.meter, self.epoch_meter))
        self.recent.add(self.state.epoch + 1, self.state.step + 1, loss, batch["index"].tolist())
        if self.average:
            self.average.update()

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
                self.state.save()
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
        count = min(self.cfg.BN.NUM_BATCHES_PRECISE, self.steps_per_epoch)
        for batch in tqdm(
            islice(self._train_batches(), count),
            total=count,
            desc="precise BN",
            leave=False,
            disable=not is_terminal(),
        ):
            stop.check()
            yield self._to_device(batch)[0]

    @torch.no_grad()
    def _validate(self, stop: StopRequest) -> bool:
        """One centre clip and centre crop of each video, with the average of the weights if any.

        Returns whether the error is the lowest so far.
        """
        self.evaluated.eval()
        self._begin_pass("val", self.val_loader)
        evaluate = Evaluation(self.evaluated, self.device, self.precision, self.cfg.TRAIN.COMPILE)
        # top-1 and top-5 hits, number of videos: of all processes in the end
        counts = torch.zeros(3, dtype=torch.long, device=self.device)
        loader: Iterable[dict[str, Any]] = self.val_loader
        bar = tqdm(loader, desc="validation", leave=False, disable=not is_terminal())
        for batch in stop.watch(bar):
            self.bad_videos.add(batch)
            if len(batch["label"]) == 0:
                continue
            video, labels = self._to_device(batch)
            counts[:2] += top_k_correct(evaluate(video), labels)
            counts[2] += len(labels)
        self.bad_videos.share()
        *correct, count = all_reduce(counts).tolist()
        if not count:
            logger.warning("Validation: none of the videos of val.csv could be read")
            return False
        top1, top5 = (100 * (1 - hits / count) for hits in correct)
        is_best = self.state.record_errors(top1, top5)
        stats = {"top1_err": top1, "top5_err": top5}
        logger.info("Epoch %d: validation top-1 error %.2f %%", self.state.epoch + 1, top1)
        self._log("val_epoch", {**stats, **self.state.min_errors, "num_videos": count})
        self._write_scalars("Val", stats)
        return is_best

    # ---------------------------------------------------------------- small parts

    def _begin_pass(self, split: str, loader: VideoLoader) -> None:
        self.bad_videos.begin(split, self.state.epoch + 1, len(loader.dataset.videos))

    def _lr(self) -> float:
        return self.schedule(self.state.position)

    def _to_device(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        video = batch["video"].to(self.device, non_blocking=True)
        labels = batch["label"].to(self.device, non_blocking=True)
        return channels_last(normalize(video, **normalization(self.cfg))), labels

    def _save(self) -> None:
        self._check_loss(self.meter.read()["loss"])
        self.state.save()

    def _reset_clocks(self) -> None:
        """At the start of an epoch, or where a run goes on within one."""
        self.clock.reset()
        self.epoch_clock.reset()

    def _reset_meters(self) -> None:
        """When the log of an epoch is written."""
        self.meter.reset()
        self.epoch_meter.reset()
        self.recent.clear()
        self.optimizer_step.scaler.skipped.zero_()

    def _clocks(self, event: str) -> None:
        for clock in (self.clock, self.epoch_clock):
            getattr(clock, event)()

    def _progress(self, title: str) -> tqdm:
        return tqdm(
            total=self.steps_per_epoch,
            initial=self._step_of_epoch(),
            desc=title,
            disable=not is_terminal(),
        )

    def _log_steps(self, bar: tqdm) -> None:
        """The one place of the loop that waits for the device."""
        self.bad_videos.share()
        stats = {
            **self.meter.read(),
            **self.clock.read(),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self._check_loss(stats["loss"])
        self.recent.clear()
        stats["grad_norm"] = self.optimizer_step.grad_norm()
        stats.update(self.optimizer_step.scaling())
        eta = readable_time(stats["dt"] * self._steps_left())
        waits = loader_bound(stats)
        bar.set_postfix_str(f"loss {stats['loss']:.3f}, eta {eta}" + (waits and f", {waits}"))
        iteration = f"{self._step_of_epoch()}/{self.steps_per_epoch}"
        self._log("train_iter", {**stats, "iter": iteration, "eta": eta})
        self._write_scalars("Train", stats)
        self.meter.reset()
        self.clock.reset()

    def _log_epoch(self) -> None:
        if not self.epoch_meter.count:  # it has been, by the run that goes on here
            return
        stats = {**self.epoch_meter.read(), **self.epoch_clock.read()}
        stats["lr"] = self.optimizer.param_groups[0]["lr"]
        stats.update(self.optimizer_step.scaling())
        self._check_loss(stats["loss"])
        self.bad_videos.share()
        logger.info(
            "Epoch %d: loss %.4f, top-1 error %.2f %%, %.3f s a step (%.3f s of it for data)",
            self.state.epoch + 1,
            stats["loss"],
            stats["top1_err"],
            stats["dt"],
            stats["dt_data"],
        )
        if skipped := stats.get("skipped_steps"):
            scale = f"; loss scale now {stats['loss_scale']:g}" if "loss_scale" in stats else ""
            text = "Epoch %d: %d steps skipped, as gradients were not finite%s"
            logger.info(text, self.state.epoch + 1, skipped, scale)
        if waits := loader_bound(stats):
            logger.info(
                "%s of the time the device waited for data. Raise DATA_LOADER.NUM_WORKERS (%d "
                "processes read), or make the files smaller (tools/prepare_dataset.py for videos)",
                waits,
                self.train_loader.num_workers,
            )
        eta = readable_time(stats["dt"] * self._steps_left())
        self._log("train_epoch", {**stats, "eta": eta})
        self._reset_meters()

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

    def _log(self, kind: str, stats: dict[str, Any]) -> None:
        header = {"_type": kind, "epoch": f"{self.state.epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}"}
        log_json_stats({**header, **stats, **memory_stats(self.device)}, self.output_dir)

    def _write_scalars(self, prefix: str, stats: dict[str, float]) -> None:
        names = {"loss": "loss", "lr": "lr", "top1_err": "Top1_err", "top5_err": "Top5_err"}
        count = self._steps_done() if prefix == "Train" else self.state.epoch + 1
        for key, name in names.items():
            if key in stats:
                self.writer.add_scalar(f"{prefix}/{name}", stats[key], count)

    def _steps_left(self) -> int:
        return (
            self.cfg.SOLVER.MAX_EPOCH - self.state.epoch
        ) * self.steps_per_epoch - self.state.step

    def _steps_done(self) -> int:
        return self.state.epoch * self.steps_per_epoch + self._step_of_epoch()

    def _step_of_epoch(self) -> int:
        """As if all steps had been of today's size."""
        return self.state.samples // self.train_loader.sampler.samples_per_step
