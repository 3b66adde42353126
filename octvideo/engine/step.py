"""One step of training: passes in parts and in a precision, clipping, the optimizer."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from octvideo.distributed.collectives import all_reduce
from octvideo.distributed.data_parallel import distribute
from octvideo.engine.losses import Loss
from octvideo.engine.meters import TrainMeter, top_k_correct
from octvideo.engine.mixup import scores_and_labels
from octvideo.engine.nonfinite import SkippedSteps
from octvideo.engine.precision import autocast

# In fp16: a scale of 65536 that is halved so often is gone. A network that gives no finite loss for
# several batches in a row is gone, too (the scale has no part in a loss).
MAX_SKIPPED = 30
MAX_LOST = 3


class LossScaler(torch.amp.GradScaler):
    """torch's loss scaler, which counts the steps that it skips without waiting for the device."""

    def __init__(self, device: torch.device, enabled: bool) -> None:
        super().__init__(device.type, enabled=enabled)
        self._one = torch.ones((), device=device)
        self.skipped = torch.zeros((), dtype=torch.long, device=device)  # since it was set to 0
        self.in_a_row = torch.zeros_like(self.skipped)

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        # torch's fused SGD leaves its momentum uninitialised where its first step is skipped.
        if self.is_enabled() and not optimizer.state:
            found = self._found_inf_per_device(optimizer)
            if any(bool(inf) for inf in found.values()):
                return None
        return super().step(optimizer, *args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """After each step. A step was skipped where the scale falls."""
        if not self.is_enabled():
            return
        before = self.scale(self._one)
        super().update(new_scale)
        fell = self.scale(self._one) < before
        self.skipped += fell
        self.in_a_row.add_(1).mul_(fell)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()  # {} where it is off
        return state and {**state, "skipped": int(self.skipped), "in_a_row": int(self.in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes scale and counters (files of PySlowFast lack the last two); not how it grows."""
        super().load_state_dict({**super().state_dict(), **state_dict})
        self.skipped.fill_(state_dict.get("skipped", 0))
        self.in_a_row.fill_(state_dict.get("in_a_row", 0))


class OptimizerStep:
    """A batch of this process -> one step of the optimizer, in ``parts`` equal parts.

    The gradient is that of the mean over the batches of all processes, which have the same size,
    whatever the parts. In "fp16" the loss is
    scaled, and a step whose gradients overflow is skipped; clipping and norms are of the true
    gradients.

    skip_nonfinite: a step whose gradients are nan or inf changes nothing, also where they are not
    scaled.

    clip_value, clip_norm: limits of each gradient and of their norm, or None. As in PySlowFast,
    the norm is not clipped where there is a clip_value.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        device: torch.device,
        precision: str = "fp32",
        parts: int = 1,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        self.model, self.optimizer, self.loss, self.device = model, optimizer, loss, device
        self.forward = distribute(model)
        self.precision, self.parts = precision, parts
        self.clip_value, self.clip_norm = clip_value, clip_norm
        self.scaler = LossScaler(device, enabled=precision == "fp16")
        self.lost = torch.zeros((), dtype=torch.long, device=device)  # steps in a row
        self.skipping = SkippedSteps(model, optimizer) if skip_nonfinite else None
        self._norm: Tensor | None = None  # before clipping, where there is clipping

    def __call__(self, video: Tensor, targets: Tensor, meters: Sequence[TrainMeter]) -> Tensor:
        """video (N, 3, T, H, W), targets as the loss takes them; the sum of the parts' losses.

        Stays on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if self.skipping:
            self.skipping.remember()
        total = torch.zeros((), device=self.device)
        parts = list(zip(video.chunk(self.parts), targets.chunk(self.parts), strict=True))
        for number, (part, wanted) in enumerate(parts, start=1):
            with self._keeping_gradients(number < len(parts)):
                with autocast(self.device, self.precision):
                    logits = self.forward(part)
                loss = self.loss(logits, wanted)
                share = len(wanted) / len(targets)
                self.scaler.scale(loss * share).backward()
            total += loss.detach()
            correct = top_k_correct(*scores_and_labels(logits.detach(), wanted))
            for meter in meters:
                meter.add(loss, correct, len(wanted))
        self.scaler.unscale_(self.optimizer)
        is_lost = ~total.isfinite()
        if self.skipping:
            overflows = ~self.skipping.judge()
        self._clip()
        if self.skipping and not self.scaler.is_enabled():
            is_lost = overflows
            self.scaler.skipped += overflows
            self.skipping.step(self.optimizer)
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.lost.add_(1).mul_(is_lost)
        return total

    def _keeping_gradients(self, keep: bool) -> AbstractContextManager:
        """Where ``keep``, gradients stay in this process: those of the last part go with all."""
        if keep and isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()

    def _clip(self) -> None:
        parameters = list(self.model.parameters())
        if self.clip_value:
            torch.nn.utils.clip_grad_value_(parameters, self.clip_value)
        elif self.clip_norm:
            self._norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)

    def grad_norm(self) -> float | None:
        """Of the last step, before clipping; None where it overflowed, or before the first."""
        norm = self._norm
        if norm is None:
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            if not grads:
                return None
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
        return float(norm) if norm.isfinite() else None

    def failure(self, loss: float) -> str | None:
        """Why training can not go on, where the mean loss has been ``loss`` lately.

        All processes ask, with the loss of all of them, and get the same answer.
        """
        if not self.scaler.is_enabled() and not self.skipping:
            return None if math.isfinite(loss) else f"the loss is {loss}"
        lost = int(all_reduce(self.lost.clone(), "max"))
        if lost >= MAX_LOST:
            return f"the loss is nan or inf for {lost} steps in a row"
        if self.scaler.in_a_row >= MAX_SKIPPED:
            scale = self.scaler.get_scale()
            return f"the gradients overflow fp16 even at a loss scale of {scale:g}"
        return None

    def scaling(self) -> dict[str, float]:
        """For the log: ``skipped_steps`` of this epoch where there may be any; ``loss_scale``."""
        if not self.scaler.is_enabled():
            return {"skipped_steps": int(self.scaler.skipped)} if self.skipping else {}
        return {"skipped_steps": int(self.scaler.skipped), "loss_scale": self.scaler.get_scale()}
