"""What a training run reports: on the terminal, in the log, as JSON lines, in TensorBoard."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from tqdm import tqdm

from octvideo.data import usable_cores
from octvideo.distributed.collectives import is_main
from octvideo.engine.log import is_terminal, log_json_stats, memory_stats
from octvideo.engine.meters import Clock, TrainMeter, loader_bound, readable_time
from octvideo.engine.progress import Progress
from octvideo.engine.tensorboard import Curves, build_curves
from octvideo.engine.update import Update

logger = logging.getLogger("octvideo")

Stats = dict[str, float]


class TrainLog:
    """Reports the "steps" since the last report, an "epoch" as a whole, and validations.

    Losses and errors come from the meters with these two names, times from clocks of its own. What
    is read covers all processes, which call the same methods; the main one writes.

    Args:
        period: steps between two reports.
        steps_to_file: whether json_stats.log gets the lines of steps, too.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        progress: Progress,
        update: Update,
        meters: Mapping[str, TrainMeter],
        curves: Curves,
        period: int,
        steps_to_file: bool,
    ) -> None:
        self.folder, self.device, self.progress, self.update = folder, device, progress, update
        self.meters, self.clocks = meters, {name: Clock(device) for name in meters}
        self.curves, self.log_period, self.steps_to_file = curves, period, steps_to_file
        self.is_advised = False  # to make reading files faster
        # An epoch with fewer steps than the period gets four lines all the same.
        few = math.ceil(progress.steps_per_epoch / 4)
        self.period = period if progress.steps_per_epoch >= period else few

    def open(self) -> None:
        """Opens the curves, once the progress says where the run starts."""
        self.curves.open(self.progress.steps_done, self.progress.epoch)

    def close(self) -> None:
        self.curves.close()

    # ---------------------------------------------------------------- while an epoch runs

    def begin_epoch(self) -> tqdm:
        """Starts the clocks; returns the progress bar, which the caller closes."""
        for clock in self.clocks.values():
            clock.reset()
        self.bar = tqdm(
            total=self.progress.steps_per_epoch,
            initial=self.progress.step_of_epoch,
            desc=f"epoch {self._epoch()}",
            disable=not is_terminal(),
        )
        return self.bar

    def data_arrived(self) -> None:
        for clock in self.clocks.values():
            clock.data_arrived()

    def step_done(self) -> None:
        for clock in self.clocks.values():
            clock.step_done()
        self.bar.update()

    def is_due(self) -> bool:
        """Returns whether a report is due. All processes get the same answer."""
        return self.progress.step % self.period == 0

    # ---------------------------------------------------------------- reports

    def read(self, name: str) -> Stats:
        """Returns what there is to report about the "steps" or the "epoch".

        Waits for the device.
        """
        return {
            **self.meters[name].read(),
            **self.clocks[name].read(),
            "lr": self.update.lr,
            **self.update.scaling(),
        }

    def log_steps(self, stats: Stats) -> None:
        """Reports what ``read("steps")`` gave; the next steps begin."""
        eta, waits = self._eta(stats), loader_bound(stats)
        self.bar.set_postfix_str(f"loss {stats['loss']:.3f}, eta {eta}" + (waits and f", {waits}"))
        iteration = f"{self.progress.step_of_epoch}/{self.progress.steps_per_epoch}"
        norm = self.update.grad_norm()
        self._write("train_iter", {**stats, "grad_norm": norm, "iter": iteration, "eta": eta})
        self.curves.add_steps("Train", stats, self.progress.steps_done)
        self.meters["steps"].reset()
        self.clocks["steps"].reset()

    def log_epoch(self, stats: Stats, num_workers: int) -> None:
        """Reports what ``read("epoch")`` gave; all counting begins again.

        num_workers: of the loader.
        """
        epoch = self.progress.epoch + 1
        logger.info(
            "Epoch %d: loss %.4f, top-1 error %.2f %%, %.3f s a step (%.3f s of it for data)",
            epoch,
            stats["loss"],
            stats["top1_err"],
            stats["dt"],
            stats["dt_data"],
        )
        if skipped := stats.get("skipped_steps"):
            scale = f"; loss scale now {stats['loss_scale']:g}" if "loss_scale" in stats else ""
            text = "Epoch %d: %d steps skipped, as gradients were not finite%s"
            logger.info(text, epoch, skipped, scale)
        if (waits := loader_bound(stats)) and not self.is_advised:
            self.is_advised = True  # once a run: each epoch's share is in its line and json_stats
            advice = "make the files smaller (octvideo prepare --reencode for videos)"
            if num_workers < usable_cores():
                more = f"raise DATA_LOADER.NUM_WORKERS ({num_workers} processes read)"
                advice = f"{more}, or {advice}"
            logger.info("%s of the time the device waited for data: %s", waits, advice)
        norm = self.update.grad_norm()
        self._write("train_epoch", {**stats, "grad_norm": norm, "eta": self._eta(stats)})
        self.curves.add_epoch("train", stats, epoch)
        for meter in self.meters.values():
            meter.reset()
        self.update.scaler.skipped.zero_()

    def begin_validation(self, count: int) -> Callable[[int, Callable[[], dict[str, float]]], None]:
        """Returns what to call after each of ``count`` batches; see ``validate``."""
        self.validation_began = begin = time.perf_counter()
        self.validation_steps = count

        def progress(done: int, read: Callable[[], dict[str, float]]) -> None:
            if done % self.log_period or not is_main():
                return
            seconds = (time.perf_counter() - begin) / done
            stats = {"iter": f"{done}/{count}", "time_diff": seconds, **read()}
            self._write("val_iter", {**stats, "eta": readable_time(seconds * (count - done))})

        return progress

    def log_validation(self, errors: Stats) -> None:
        """Reports what ``validate`` gave, once ``progress`` has recorded it."""
        epoch = self.progress.epoch + 1
        if "top1_err" in errors:
            text = "Epoch %d: validation loss %.4f, top-1 error %.2f %%"
            logger.info(text, epoch, errors["loss"], errors["top1_err"])
        seconds = time.perf_counter() - self.validation_began
        times = {"time_diff": seconds / max(self.validation_steps, 1)}
        self._write("val_epoch", {**errors, **times, **self.progress.min_errors})
        steps = epoch * self.progress.steps_per_epoch
        self.curves.add_steps("Val", errors, steps)
        self.curves.add_epoch("val", errors, epoch)

    # ---------------------------------------------------------------- small parts

    def _epoch(self) -> str:
        return f"{self.progress.epoch + 1}/{self.progress.max_epoch}"

    def _eta(self, stats: Stats) -> str:
        return readable_time(stats["dt"] * self.progress.steps_left)

    def _write(self, kind: str, stats: Mapping[str, object]) -> None:
        header = {"_type": kind, "epoch": self._epoch()}
        to_file = self.steps_to_file or not kind.endswith("_iter")
        log_json_stats({**header, **stats, **memory_stats(self.device)}, self.folder, to_file)


def build_train_log(
    cfg: CfgNode,
    device: torch.device,
    progress: Progress,
    update: Update,
    meters: Mapping[str, TrainMeter],
) -> TrainLog:
    """Returns the log of a run in its OUTPUT_DIR."""
    return TrainLog(
        Path(cfg.OUTPUT_DIR),
        device,
        progress,
        update,
        meters,
        build_curves(cfg),
        period=cfg.LOG_PERIOD,
        steps_to_file=cfg.JSON_STATS_STEPS,
    )
