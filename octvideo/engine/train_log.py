"""What a training tells of itself: on the terminal, in the log, as JSON lines, in TensorBoard."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from tqdm import tqdm

from octvideo.data import usable_cores
from octvideo.distributed.collectives import is_main
from octvideo.engine.log import is_terminal, log_json_stats, memory_stats
from octvideo.engine.meters import Clock, loader_bound, readable_time
from octvideo.engine.run_state import RunState
from octvideo.engine.step import OptimizerStep
from octvideo.engine.tensorboard import Curves

logger = logging.getLogger("octvideo")


class TrainLog:
    """Tells of "steps", those since it did so last, of an "epoch" as a whole, and of validations.

    Losses and errors come from the meters of ``state`` with these two names, times from clocks of
    its own. What is read is of all processes, which call the same methods; the main one writes.
    """

    def __init__(
        self, cfg: CfgNode, device: torch.device, state: RunState, optimizer_step: OptimizerStep
    ) -> None:
        self.cfg, self.device, self.state = cfg, device, state
        self.optimizer_step = optimizer_step
        self.clocks = {name: Clock(device) for name in state.meters}
        self.curves = Curves(cfg, state.steps_done, state.epoch)
        self.is_advised = False  # to read files faster
        # An epoch of fewer steps than LOG_PERIOD gets four lines all the same.
        few, period = math.ceil(state.steps_per_epoch / 4), cfg.LOG_PERIOD
        self.period = period if state.steps_per_epoch >= period else few

    def close(self) -> None:
        self.curves.close()

    # ---------------------------------------------------------------- while an epoch runs

    def begin_epoch(self) -> tqdm:
        """Or where a run goes on within one; the bar, to be closed at the end."""
        for clock in self.clocks.values():
            clock.reset()
        self.bar = tqdm(
            total=self.state.steps_per_epoch,
            initial=self.state.step_of_epoch,
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
        """Whether the steps are to be logged now; all processes say the same."""
        return self.state.step % self.period == 0

    # ---------------------------------------------------------------- what is told

    def read(self, name: str) -> dict[str, Any]:
        """What there is to tell of the "steps" or the "epoch"; waits for the device."""
        return {
            **self.state.meters[name].read(),
            **self.clocks[name].read(),
            "lr": self.optimizer_step.optimizer.param_groups[0]["lr"],
            **self.optimizer_step.scaling(),
        }

    def tell_steps(self, stats: dict[str, Any]) -> None:
        """What ``read`` gave; the next steps begin."""
        eta, waits = self._eta(stats), loader_bound(stats)
        self.bar.set_postfix_str(f"loss {stats['loss']:.3f}, eta {eta}" + (waits and f", {waits}"))
        iteration = f"{self.state.step_of_epoch}/{self.state.steps_per_epoch}"
        norm = self.optimizer_step.grad_norm()
        self._write("train_iter", {**stats, "grad_norm": norm, "iter": iteration, "eta": eta})
        self.curves.add_steps("Train", stats, self.state.steps_done)
        self.state.meters["steps"].reset()
        self.clocks["steps"].reset()

    def tell_epoch(self, stats: dict[str, Any], num_workers: int) -> None:
        """What ``read`` gave; all counting begins again. num_workers: of the loader."""
        epoch = self.state.epoch + 1
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
        norm = self.optimizer_step.grad_norm()
        self._write("train_epoch", {**stats, "grad_norm": norm, "eta": self._eta(stats)})
        self.curves.add_epoch("train", stats, epoch)
        for meter in self.state.meters.values():
            meter.reset()
        self.optimizer_step.scaler.skipped.zero_()

    def begin_validation(self, count: int) -> Callable[[int, Callable[[], dict]], None]:
        """Gives what is to be called after each of ``count`` batches; see ``validate``."""
        self.validation_began = begin = time.perf_counter()
        self.validation_steps = count

        def progress(done: int, read: Callable[[], dict]) -> None:
            if done % self.cfg.LOG_PERIOD or not is_main():
                return
            seconds = (time.perf_counter() - begin) / done
            stats = {"iter": f"{done}/{count}", "time_diff": seconds, **read()}
            self._write("val_iter", {**stats, "eta": readable_time(seconds * (count - done))})

        return progress

    def tell_validation(self, errors: dict[str, Any]) -> None:
        """What ``validate`` gave, once ``state`` has recorded it."""
        epoch = self.state.epoch + 1
        if "top1_err" in errors:
            text = "Epoch %d: validation loss %.4f, top-1 error %.2f %%"
            logger.info(text, epoch, errors["loss"], errors["top1_err"])
        seconds = time.perf_counter() - self.validation_began
        times = {"time_diff": seconds / max(self.validation_steps, 1)}
        self._write("val_epoch", {**errors, **times, **self.state.min_errors})
        steps = epoch * self.state.steps_per_epoch
        self.curves.add_steps("Val", errors, steps)
        self.curves.add_epoch("val", errors, epoch)

    # ---------------------------------------------------------------- small parts

    def _epoch(self) -> str:
        return f"{self.state.epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}"

    def _eta(self, stats: dict[str, Any]) -> str:
        return readable_time(stats["dt"] * self.state.steps_left)

    def _write(self, kind: str, stats: dict[str, Any]) -> None:
        header = {"_type": kind, "epoch": self._epoch()}
        folder = Path(self.cfg.OUTPUT_DIR)
        to_file = self.cfg.JSON_STATS_STEPS or not kind.endswith("_iter")
        log_json_stats({**header, **stats, **memory_stats(self.device)}, folder, to_file)
