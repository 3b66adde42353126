"""The training step: transfer, mix, forward, backward, clip, step, average, log."""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from octvideo.data import Protocol
from octvideo.data.clips import Batch
from octvideo.distributed.data_parallel import distribute
from octvideo.engine.averaging import WeightAverage
from octvideo.engine.losses import Loss
from octvideo.engine.meters import TrainMeter, top_k_correct
from octvideo.engine.mixup import Mixup, scores_and_labels
from octvideo.engine.precision import autocast, channels_last
from octvideo.engine.update import Update


@dataclass(frozen=True)
class Transfer:
    """Takes the clips and labels of a batch to the device, and normalises the clips there."""

    device: torch.device
    protocol: Protocol

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns clips (N, 3, T, S, S), channels-last, and labels (N,)."""
        video = batch["video"].to(self.device, non_blocking=True)
        labels = batch["label"].to(self.device, non_blocking=True)
        return channels_last(self.protocol.normalized(video)), labels


class TrainStep:
    """One step of the optimizer on a batch of this process. Nothing in it waits for the device.

    The gradient is the one of the mean loss over the batches of all processes, which have the same
    size, however many parts a batch is cut into.

    Args:
        parts: equal parts of a batch that pass one after another, to save memory.
        average: of the weights, updated after each step.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        update: Update,
        transfer: Transfer,
        precision: str = "fp32",
        parts: int = 1,
        mixup: Mixup | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        self.network, self.loss, self.update = distribute(model), loss, update
        self.transfer, self.precision, self.num_parts = transfer, precision, parts
        self.mixup, self.average = mixup, average

    def __call__(
        self, batch: Batch, rng: np.random.Generator, meters: Collection[TrainMeter] = ()
    ) -> Tensor:
        """Returns the sum of the losses of the parts, on the device; ``rng`` mixes the clips."""
        self.update.begin()
        # Transfer the clips as uint8, and normalise them on the device.
        video, targets = self.transfer(batch)
        # Mix each clip with another one of the batch: targets become shares of the classes.
        if self.mixup:
            video, targets = self.mixup(video, targets, rng)
        results = []
        for part, wanted, is_last in self._parts(video, targets):
            with self._averaging_gradients(is_last):
                # Forward pass in the precision of the run.
                logits, loss = self._forward(part, wanted)
                # Backward pass; with the last part, gradients are averaged over the processes.
                self.update.backward(loss * (len(wanted) / len(targets)))
            correct = top_k_correct(*scores_and_labels(logits.detach(), wanted))
            results.append((loss.detach(), correct, len(wanted)))
        # Clip the true gradients.
        self.update.clip()
        # Step, unless the gradients are not finite and such steps are skipped.
        total = sum((loss for loss, *_ in results), torch.zeros((), device=video.device))
        self.update.step(total)
        # Average the weights of the steps.
        if self.average:
            self.average.update()
        # Log: the meters add up on the device, and are read at the log steps.
        for meter in meters:
            for result in results:
                meter.add(*result)
        return total

    def _parts(self, video: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, bool]]:
        parts = video.chunk(self.num_parts)
        for number, (part, wanted) in enumerate(
            zip(parts, targets.chunk(self.num_parts), strict=True), start=1
        ):
            yield part, wanted, number == len(parts)

    def _averaging_gradients(self, last: bool) -> AbstractContextManager[object]:
        """Gradients stay in this process until the last part takes the sum of all with it."""
        if isinstance(self.network, DistributedDataParallel) and not last:
            return self.network.no_sync()
        return nullcontext()

    def _forward(self, video: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.transfer.device, self.precision):
            logits = self.network(video)
        return logits, self.loss(logits, targets)
