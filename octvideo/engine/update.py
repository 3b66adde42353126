"""From the gradients of a batch to a step of the optimizer: scaling, clipping, skipping."""

import math

import torch
from torch import Tensor, nn

from octvideo.distributed.collectives import all_reduce
from octvideo.engine.nonfinite import SkippedSteps
from octvideo.engine.state import Load, Saved

# In fp16, a scale of 65536 that has been halved this often is gone. So is a network that gives no
# finite loss for several batches in a row (the scale has no part in a loss).
MAX_SKIPPED = 30
MAX_LOST = 3


class LossScaler(torch.amp.GradScaler):
    """torch's loss scaler; it counts the steps that it skips without waiting for the device."""

    def __init__(self, device: torch.device, enabled: bool) -> None:
        super().__init__(device.type, enabled=enabled)
        self._one = torch.ones((), device=device)
        self.skipped = torch.zeros((), dtype=torch.long, device=device)  # since it was set to 0
        self.in_a_row = torch.zeros_like(self.skipped)

    def step(
        self, optimizer: torch.optim.Optimizer, *args: object, **kwargs: object
    ) -> float | None:
        # torch's fused SGD leaves its momentum uninitialised if its first step is skipped.
        if self.is_enabled() and not optimizer.state:
            found = self._found_inf_per_device(optimizer)
            if any(bool(inf) for inf in found.values()):
                return None
        return super().step(optimizer, *args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapts the scale after each step. A step was skipped if the scale falls."""
        if not self.is_enabled():
            return
        before = self.scale(self._one)
        super().update(new_scale)
        fell = self.scale(self._one) < before
        self.skipped += fell
        self.in_a_row.add_(1).mul_(fell)

    def state_dict(self) -> dict[str, float]:
        state = super().state_dict()  # {} if it is off
        return state and {**state, "skipped": int(self.skipped), "in_a_row": int(self.in_a_row)}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Takes scale and counters (PySlowFast's files lack the last two), not how it grows."""
        super().load_state_dict({**super().state_dict(), **state_dict})
        self.skipped.fill_(state_dict.get("skipped", 0))
        self.in_a_row.fill_(state_dict.get("in_a_row", 0))


class ScalerState:
    """Scale and counters of a loss scaler; how it grows and falls is the run's own setting."""

    def __init__(self, scaler: LossScaler) -> None:
        self.scaler = scaler

    def state_dict(self) -> dict[str, object]:
        return {"scaler_state": self.scaler.state_dict()}

    def check_state(self, saved: Saved) -> Load:
        state = saved.fields("scaler_state") if "scaler_state" in saved else None
        if state is None or not state.names():
            return lambda: None
        smallest, largest = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
        values: dict[str, float] = {"scale": state.number("scale", smallest, largest)}
        for name in ("_growth_tracker", "skipped", "in_a_row"):  # PySlowFast has the first only
            values[name] = state.integer(name, 0, high=2**31 - 1)
        return lambda: self.scaler.load_state_dict(values)


class Update:
    """begin -> backward, once for each part of the batch -> clip -> step.

    Args:
        fp16: scale the loss, and skip a step whose gradients overflow. Clipping and norms always
            see the true gradients.
        clip_value, clip_norm: limits of each gradient and of their norm, or None. As in PySlowFast,
            clip_value takes precedence.
        skip_nonfinite: a step whose gradients are nan or inf changes nothing, in any precision.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        fp16: bool = False,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        self.optimizer, self.parameters = optimizer, list(model.parameters())
        self.clip_value, self.clip_norm = clip_value, clip_norm
        self.scaler = LossScaler(device, enabled=fp16)
        self.skipping = SkippedSteps(model, optimizer) if skip_nonfinite else None
        self.lost = torch.zeros((), dtype=torch.long, device=device)  # steps in a row
        self._norm: Tensor | None = None  # before clipping, if there is clipping

    @property
    def lr(self) -> float:
        """Returns the learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin(self) -> None:
        """Clears the gradients. Call it before the forward pass."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.skipping:
            self.skipping.remember()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss, which is a share of the batch's mean loss."""
        self.scaler.scale(loss).backward()

    def clip(self) -> None:
        """Unscales the gradients, judges whether they are finite, and clips them."""
        self.scaler.unscale_(self.optimizer)
        if self.skipping:
            self.skipping.judge()
        if self.clip_value:
            torch.nn.utils.clip_grad_value_(self.parameters, self.clip_value)
        elif self.clip_norm:
            self._norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)

    def step(self, loss: Tensor) -> None:
        """Makes the step, unless it has to be skipped. ``loss``: of the batch, on the device."""
        if self.skipping and not self.scaler.is_enabled():
            is_lost = ~self.skipping.finite
            self.scaler.skipped += is_lost
            self.skipping.step(self.optimizer)
        else:
            is_lost = ~loss.isfinite()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.lost.add_(1).mul_(is_lost)

    # ---------------------------------------------------------------- read when the log is due

    def grad_norm(self) -> float | None:
        """Returns the norm of the last step's gradients before clipping.

        None if they overflowed, or before the first step.
        """
        norm = self._norm
        if norm is None:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            if not grads:
                return None
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
        return float(norm) if norm.isfinite() else None

    def failure(self, loss: float) -> str | None:
        """Returns why training cannot continue if the mean loss has been ``loss`` lately.

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
        """Returns ``skipped_steps`` of this epoch, if steps may be skipped, and ``loss_scale``."""
        if not self.scaler.is_enabled():
            return {"skipped_steps": int(self.scaler.skipped)} if self.skipping else {}
        return {"skipped_steps": int(self.scaler.skipped), "loss_scale": self.scaler.get_scale()}
