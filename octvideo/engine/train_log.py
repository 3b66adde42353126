"""What a training tells of itself: on the terminal, in the log, as JSON lines, in TensorBoard."""

import logging
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from tqdm import tqdm

from octvideo.engine.meters import Clock, loader_bound, readable_time
from octvideo.engine.run_state import RunState
from octvideo.engine.step import OptimizerStep
from octvideo.engine.tensorboard import build_writer
from octvideo.utils.log import is_terminal, log_json_stats, memory_stats

logger = logging.getLogger("octvideo")

_SCALARS = {"loss": "loss", "lr": "lr", "top1_err": "Top1_err", "top5_err": "Top5_err"}


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
        self.writer = build_writer(cfg, state.steps_done)

    def close(self) -> None:
        self.writer.close()

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
        self._write_scalars("Train", stats, self.state.steps_done)
        self.state.meters["steps"].reset()
        self.clocks["steps"].reset()

    def tell_epoch(self, stats: dict[str, Any], num_workers: int) -> None:
        """What ``read`` gave; all counting begins anew. num_workers: of the loader."""
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
        if waits := loader_bound(stats):
            logger.info(
                "%s of the time the device waited for data. Raise DATA_LOADER.NUM_WORKERS (%d "
                "processes read), or make the files smaller (tools/prepare_dataset.py for videos)",
                waits,
                num_workers,
            )
        self._write("train_epoch", {**stats, "eta": self._eta(stats)})
        for meter in self.state.meters.values():
            meter.reset()
        self.optimizer_step.scaler.skipped.zero_()

    def tell_validation(self, errors: dict[str, Any]) -> None:
        """What ``validate`` gave, once ``state`` has recorded it."""
        epoch = self.state.epoch + 1
        if "top1_err" in errors:
            text = "Epoch %d: validation loss %.4f, top-1 error %.2f %%"
            logger.info(text, epoch, errors["loss"], errors["top1_err"])
        self._write("val_epoch", {**errors, **self.state.min_errors})
        self._write_scalars("Val", errors, epoch)

    # ---------------------------------------------------------------- small parts

    def _epoch(self) -> str:
        return f"{self.state.epoch + 1}/{self.cfg.SOLVER.MAX_EPOCH}"

    def _eta(self, stats: dict[str, Any]) -> str:
        return readable_time(stats["dt"] * self.state.steps_left)

    def _write(self, kind: str, stats: dict[str, Any]) -> None:
        header = {"_type": kind, "epoch": self._epoch()}
        folder = Path(self.cfg.OUTPUT_DIR)
        log_json_stats({**header, **stats, **memory_stats(self.device)}, folder)

    def _write_scalars(self, prefix: str, stats: dict[str, Any], count: int) -> None:
        for key, name in _SCALARS.items():
            if key in stats:
                self.writer.add_scalar(f"{prefix}/{name}", stats[key], count)
