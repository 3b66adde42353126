"""Scores, losses and gradients that are nan or inf: their videos, and skipped steps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from octvideo.distributed.collectives import all_gather_objects
from octvideo.layers.torch_private import norms

_SHOWN = 64  # videos of a batch that a message names


class SkippedSteps:
    """Undoes a step whose gradients are not finite: weights, optimizer and batch-norm statistics
    stay as they were.

    Gradients are already averaged over the processes, so all decide the same. On a GPU, torch's
    fused optimizers need no wait for the device; the others wait in each step. The cost is a copy
    of the buffers and a pass through the gradients.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.buffers = list(model.buffers())
        self.saved = [torch.empty_like(buffer) for buffer in self.buffers]
        self.finite = torch.ones((), dtype=torch.bool)

    def remember(self) -> None:
        """Keeps the statistics. Call it before the forward pass, which changes them."""
        for saved, buffer in zip(self.saved, self.buffers, strict=True):
            saved.copy_(buffer)

    def judge(self) -> Tensor:
        """Returns whether the gradients are finite, on the device. Call it after backward."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        self.finite = torch.stack(norms(grads)).isfinite().all()
        for saved, buffer in zip(self.saved, self.buffers, strict=True):
            buffer.copy_(torch.where(self.finite, buffer, saved))
        return self.finite

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Makes the step of the optimizer, unless the gradients were not finite."""
        if takes_found_inf(optimizer):
            optimizer.found_inf = (~self.finite).float()  # type: ignore[attr-defined]
            optimizer.step()
        elif self.finite:
            optimizer.step()


def finite_rows(scores: Tensor) -> Tensor:
    """Returns which files have no nan or inf among their scores: (N, ..., K) -> bool (N,)."""
    return scores.isfinite().flatten(1).all(dim=1)


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether a fused optimizer can skip a step by a flag on the device.

    It cannot in its first step: if that is skipped, torch 2.13 leaves the momentum uninitialised.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False) and optimizer.state)


class RecentLosses:
    """Keeps the losses of the last steps, on the device, and the videos of each.

    path_of: from the index of a video to its path.
    """

    def __init__(self, path_of: Callable[[int], str]) -> None:
        self.path_of = path_of
        self._rows: list[tuple[int, int, Tensor, list[int]]] = []

    def add(self, epoch: int, step: int, loss: Tensor, videos: Sequence[int]) -> None:
        """Adds a step; ``epoch`` and ``step`` count from 1, loss is a scalar, videos indices."""
        self._rows.append((epoch, step, loss, list(videos)))

    def clear(self) -> None:
        self._rows.clear()

    def first_lost(self) -> str | None:
        """Returns epoch, step and videos of the first step whose loss is not finite in any process.

        All processes have to ask together. Waits for the device.
        """
        rows = [(*row[:2], row[3]) for row in self._rows if not row[2].isfinite()]
        found = sorted(row for rows in all_gather_objects(rows[:1]) for row in rows)
        if not found:
            return None
        epoch, step, _ = found[0]
        videos = [v for row in found if row[:2] == (epoch, step) for v in row[2]]
        lines = [self.path_of(video) for video in videos[:_SHOWN]]
        if len(videos) > _SHOWN:
            lines.append(f"and {len(videos) - _SHOWN} more")
        return f"epoch {epoch}, step {step}, whose videos were\n  " + "\n  ".join(lines)
