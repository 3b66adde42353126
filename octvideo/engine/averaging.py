"""Precise batch-norm statistics."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers import Value


class _Statistics:
    """Mean and variance of everything that one batch-norm layer has seen."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.saved = (layer.momentum, layer.running_mean.clone(), layer.running_var.clone())
        self.num_batches_tracked = layer.num_batches_tracked.clone()
        self.count = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.sum = torch.zeros_like(self.count)
        self.square_sum = torch.zeros_like(self.count)
        layer.momentum = 1.0  # the running statistics become those of the batch

    def add(self, layer: _BatchNorm, inputs: tuple[Value], _output: Value) -> None:
        """Forward hook: adds the batch that has just passed."""
        count = _elements_per_channel(inputs[0]).to(self.count)
        mean, var = layer.running_mean.double(), layer.running_var.double()
        self.count += count
        self.sum += mean * count
        self.square_sum += mean.square() * count + var * (count - 1)  # var is Bessel-corrected

    def finish(self, apply: bool) -> None:
        """Restores the layer, but for its statistics where ``apply`` says that they are new."""
        self.layer.momentum, mean, var = self.saved
        self.layer.num_batches_tracked.copy_(self.num_batches_tracked)
        if apply:
            mean = self.sum / self.count
            var = (self.square_sum / self.count - mean.square()).clamp_(min=0)
        self.layer.running_mean.copy_(mean)
        self.layer.running_var.copy_(var)


def _elements_per_channel(x: Value) -> Tensor:
    """How many elements each channel, ordered [L | H], has in this batch."""
    parts = (x,) if isinstance(x, Tensor) else (x[1], x[0])
    return torch.cat([torch.full((p.shape[1],), p.numel() // p.shape[1]) for p in parts])


@contextmanager
def _gathering(model: nn.Module) -> Iterator[list[_Statistics]]:
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    statistics = [_Statistics(layer) for layer in layers]
    hooks = [s.layer.register_forward_hook(s.add) for s in statistics]
    try:
        yield statistics
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def update_bn_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replaces the running mean and variance by those of all ``batches``; returns their number.

    The model runs in training mode with its weights as they are (Wu & Johnson, "Rethinking
    'Batch' in BatchNorm", sec. 3). Octave layers are counted per frequency. Where the batches
    end early, by an error or because there are none, the statistics stay as they were. The random
    numbers of training are left alone: dropout draws from a copy of their state.
    """
    was_training, num_batches = model.training, 0
    model.train()
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices), _gathering(model) as statistics:
        complete = False
        try:
            for batch in batches:
                model(batch)
                num_batches += 1
            complete = num_batches > 0
        finally:
            for layer_statistics in statistics:
                layer_statistics.finish(apply=complete)
            model.train(was_training)
    return num_batches
