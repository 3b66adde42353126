"""Errors, running means and clocks of the training and testing loops."""

import datetime
import time
from collections.abc import Sequence

import torch
from torch import Tensor


def top_k_correct(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """How many of the N rows have their label among the k best: (N, K), (N,) -> (len(ks),).

    A k above the number of classes counts as that number. Stays on the device.
    """
    num_classes = scores.shape[1]
    best = scores.topk(min(max(ks), num_classes), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].any(dim=1).sum() for k in ks])


class TrainMeter:
    """Loss and errors since the last reset, summed on the device: reading them synchronises.

    skip_lost: what has no finite loss is left out, as the scaler of fp16 skips its step.
    """

    def __init__(self, device: torch.device, skip_lost: bool = False) -> None:
        self.sums = torch.zeros(4, device=device)  # loss, top-1 and top-5 hits, number: of samples
        self.count = 0
        self.skip_lost = skip_lost

    def reset(self) -> None:
        self.sums.zero_()
        self.count = 0

    def add(self, loss: Tensor, correct: Tensor, num_samples: int) -> None:
        row = torch.cat([loss.detach()[None], correct / num_samples, torch.ones_like(loss)[None]])
        if self.skip_lost:
            row = torch.where(loss.isfinite(), row, 0.0)
        self.sums += row * num_samples
        self.count += num_samples

    def read(self) -> dict[str, float]:
        """``loss``, ``top1_err`` and ``top5_err`` (percent); nan where every loss was skipped."""
        sums, number = self.sums[:3], self.sums[3]
        loss, top1, top5 = (sums / (number if self.count else 1)).tolist()
        return {"loss": loss, "top1_err": 100 * (1 - top1), "top5_err": 100 * (1 - top5)}


class Clock:
    """Mean seconds a step (``dt``), of them waiting for data (``dt_data``) and the rest."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.start = self.mark = time.perf_counter()
        self.waited = 0.0
        self.steps = 0

    def data_arrived(self) -> None:
        self.waited += time.perf_counter() - self.mark

    def step_done(self) -> None:
        self.mark = time.perf_counter()
        self.steps += 1

    def read(self) -> dict[str, float]:
        steps = max(self.steps, 1)
        dt, dt_data = (self.mark - self.start) / steps, self.waited / steps
        return {"dt": dt, "dt_data": dt_data, "dt_net": dt - dt_data}


def readable_time(seconds: float) -> str:
    """Seconds as [D day(s), ]H:MM:SS."""
    return str(datetime.timedelta(seconds=int(seconds)))
