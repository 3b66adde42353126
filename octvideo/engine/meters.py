"""Errors, running means and clocks of the training and testing loops."""

import datetime
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from octvideo.distributed.collectives import all_reduce


def top_k_correct(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """Counts the rows whose label is among their k best scores: (N, K), (N,) -> (len(ks),).

    A k above the number of classes counts as that number. Stays on the device.
    """
    num_classes = scores.shape[1]
    best = scores.topk(min(max(ks), num_classes), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].any(dim=1).sum() for k in ks])


class TrainMeter:
    """Loss and errors since the last reset, summed on the device: reading them synchronises.

    Each process counts its own samples; what is read covers all processes.

    Args:
        skip_lost: leave out samples without a finite loss, as the scaler of fp16 skips their step.
    """

    def __init__(self, device: torch.device, skip_lost: bool = False) -> None:
        self.sums = torch.zeros(
            4, device=device
        )  # over samples: loss, top-1 hits, top-5 hits, their number
        self.count = 0
        self.skip_lost = skip_lost

    def reset(self) -> None:
        self.sums.zero_()
        self.count = 0

    def state(self) -> list[float]:
        """Returns what `restore` takes; the states of several processes may be added up."""
        return [*self.sums.tolist(), self.count]

    def restore(self, state: Sequence[float]) -> None:
        *sums, count = state
        self.sums.copy_(torch.tensor(sums))
        self.count = int(count)

    def add(self, loss: Tensor, correct: Tensor, num_samples: int) -> None:
        row = torch.cat([loss.detach()[None], correct / num_samples, torch.ones_like(loss)[None]])
        if self.skip_lost:
            row = torch.where(loss.isfinite(), row, 0.0)
        self.sums += row * num_samples
        self.count += num_samples

    def read(self) -> dict[str, float]:
        """Returns ``loss``, ``top1_err`` and ``top5_err`` (percent); nan if all were left out.

        All processes have to read together.
        """
        *sums, number = all_reduce(self.sums.clone())
        # A process that has counted none may read what others have counted.
        number = number if self.count else number.clamp(min=1)
        loss, top1, top5 = (torch.stack(sums) / number).tolist()
        return {"loss": loss, "top1_err": 100 * (1 - top1), "top5_err": 100 * (1 - top5)}


class Clock:
    """Measures seconds per step, and the part of them that was spent waiting for data.

    A CUDA device still works while the loop waits: if one is given, its own clock says for how long
    it was idle between two steps. Otherwise the loop's waiting counts.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.on_cuda = device is not None and device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        self.start = self.mark = time.perf_counter()
        self.waited = self.idle = 0.0
        self.steps = 0
        self.gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.ended = self._event()

    def data_arrived(self) -> None:
        self.waited += time.perf_counter() - self.mark
        if self.ended and (begins := self._event()):
            self.gaps.append((self.ended, begins))
            self._count_idle()

    def step_done(self) -> None:
        self.mark = time.perf_counter()
        self.ended = self._event()
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Returns mean seconds per step: ``dt``, waiting for data (``dt_data``), and the rest
        (``dt_net``); and ``loader_bound``, percent of the time in which the device was idle.

        Call it when the device has finished, as after the loss has been read.
        """
        steps = max(self.steps, 1)
        dt, dt_data = (time.perf_counter() - self.start) / steps, self.waited / steps
        self._count_idle()
        idle = self.idle / steps if self.on_cuda else dt_data
        share = min(100 * idle / dt, 100.0) if dt else 0.0
        return {"dt": dt, "dt_data": dt_data, "dt_net": dt - dt_data, "loader_bound": share}

    def _event(self) -> torch.cuda.Event | None:
        """Records the point at which the device has done everything it was asked for so far."""
        if not self.on_cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _count_idle(self) -> None:
        """Adds up the gaps that the device has passed."""
        while self.gaps and self.gaps[0][1].query():
            ended, begins = self.gaps.pop(0)
            self.idle += ended.elapsed_time(begins) / 1000


def loader_bound(stats: dict[str, float]) -> str:
    """Formats what ``Clock.read`` gave as "loader-bound: 35 %"; "" if it is 10 % or less."""
    return f"loader-bound: {share:.0f} %" if (share := stats["loader_bound"]) > 10 else ""


def readable_time(seconds: float) -> str:
    """Formats seconds as [D day(s), ]H:MM:SS."""
    return str(datetime.timedelta(seconds=int(seconds)))
