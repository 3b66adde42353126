"""Scores, losses and gradients that are nan or inf: which videos they are of, and skipped steps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from octvideo.distributed.collectives import all_gather_objects
from octvideo.layers.torch_private import norms

_SHOWN = 64  # videos of a batch that a message names


class SkippedSteps:
    """Undoes a step whose gradients are not finite: weights, optimizer and batch-norm statistics
    stay as they were.

    Gradients are those of all processes together, so all decide the same. On a GPU with torch's
    fused optimizers nothing waits for the device; the others wait for it in each step. Costs a
    copy of the buffers, and a pass through the gradients.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.buffers = list(model.buffers())
        self.saved = [torch.empty_like(buffer) for buffer in self.buffers]
        self.finite = torch.ones((), dtype=torch.bool)

    def remember(self) -> None:
        """Before the forward pass, which changes the statistics."""
        for saved, buffer in zip(self.saved, self.buffers, strict=True):
            saved.copy_(buffer)

    def judge(self) -> Tensor:
        """After the backward pass; whether the gradients are finite: a bool on the device."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        self.finite = torch.stack(norms(grads)).isfinite().all()
        for saved, buffer in zip(self.saved, self.buffers, strict=True):
            buffer.copy_(torch.where(self.finite, buffer, saved))
        return self.finite

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Of the optimizer, unless the gradients were not finite."""
        if takes_found_inf(optimizer):
            optimizer.found_inf = (~self.finite).float()  # type: ignore[attr-defined]
            optimizer.step()
        elif self.finite:
            optimizer.step()


def finite_rows(scores: Tensor) -> Tensor:
    """Returns which files have no nan or inf among their scores: (N, ..., K) -> bool (N,)."""
    return scores.isfinite().flatten(1).all(dim=1)


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer can be told on the device to do nothing.

    Not in its first step: where that is left out, torch 2.13 leaves the momentum uninitialised.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False) and optimizer.state)


class RecentLosses:
    """The losses of the last steps, on the device, with the videos that they are of.

    path_of: from the index of a video to its path.
    """

    def __init__(self, path_of: Callable[[int], str]) -> None:
        self.path_of = path_of
        self._rows: list[tuple[int, int, Tensor, list[int]]] = []

    def add(self, epoch: int, step: int, loss: Tensor, videos: Sequence[int]) -> None:
        """epoch and step count from 1; loss is a scalar, videos are indices."""
        self._rows.append((epoch, step, loss, list(videos)))

    def clear(self) -> None:
        self._rows.clear()

    def first_lost(self) -> str | None:
        """Of the first step without a finite loss in any process: epoch, step and videos.

        All processes have to ask together; waits for the device.
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
