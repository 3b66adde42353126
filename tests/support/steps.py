"""Training steps on tensors, without a loader."""

from collections.abc import Collection

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.data import Protocol
from octvideo.engine.meters import TrainMeter
from octvideo.engine.step import Batch, TrainStep, Transfer
from octvideo.engine.update import Update

CPU = torch.device("cpu")


class _AsItIs(Transfer):
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch["video"], batch["label"]


class TensorStep(TrainStep):
    """A step with cross entropy; ``options`` are those of `Update`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: str = "fp32",
        parts: int = 1,
        **options: object,
    ) -> None:
        update = Update(model, optimizer, CPU, fp16=precision == "fp16", **options)
        super().__init__(
            model, F.cross_entropy, update, _AsItIs(CPU, Protocol(1, 1)), precision, parts
        )

    def __call__(self, video: Tensor, targets: Tensor, meters: Collection[TrainMeter]) -> Tensor:
        batch = {"video": video, "label": targets}
        return super().__call__(batch, np.random.default_rng(0), meters)
