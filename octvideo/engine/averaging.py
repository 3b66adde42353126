"""Averages: precise batch-norm statistics, and the running average of the weights."""

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.distributed.collectives import all_reduce
from octvideo.engine.state import Load, Saved, check_weights
from octvideo.layers import Value, maps_of
from octvideo.layers.torch_private import call_as_written, lerp_

logger = logging.getLogger("octvideo")


class _Statistics:
    """Mean and variance of everything that one batch-norm layer has seen."""

    def __init__(self, layer: _BatchNorm) -> None:
        mean, var, counter = layer.running_mean, layer.running_var, layer.num_batches_tracked
        assert isinstance(mean, Tensor)  # it tracks them
        assert isinstance(var, Tensor)
        assert isinstance(counter, Tensor)
        self.layer, self.mean, self.var, self.counter = layer, mean, var, counter
        self.saved = (layer.momentum, mean.clone(), var.clone(), counter.clone())
        # of each channel: number of elements, their sum, the sum of their squares
        self.sums = mean.new_zeros(3, layer.num_features, dtype=torch.float64)
        layer.momentum = 1.0  # the running statistics become those of the batch
        for old in (mean, var):
            old.zero_()  # nothing times inf would be nan

    def add(self, layer: _BatchNorm, inputs: tuple[Value], _output: Value) -> None:
        """Forward hook: adds the batch that has just passed."""
        own = _elements_per_channel(inputs[0]).to(self.sums)
        mean, var = self.mean.double(), self.var.double()
        # If processes normalise together, each has the statistics of all, for its own share.
        count = all_reduce(own.clone()) if getattr(layer, "synchronized", False) else own
        var = var * (count - 1) / count  # without Bessel's correction
        self.sums += torch.stack([own, mean * own, (mean.square() + var) * own])

    def finish(self, apply: bool) -> None:
        """Restores the layer; its statistics are replaced by the new ones if ``apply``."""
        self.layer.momentum, mean, var, counter = self.saved
        self.counter.copy_(counter)
        if apply:
            count, total, squares = self.sums
            mean = total / count
            var = (squares / count - mean.square()).clamp_(min=0)
        self.mean.copy_(mean)
        self.var.copy_(var)


def _elements_per_channel(x: Value) -> Tensor:
    """Returns how many elements each channel, ordered [L | H], has in this batch."""
    return torch.cat([torch.full((p.shape[1],), p.numel() // p.shape[1]) for p in maps_of(x)])


def _sum_over_processes(statistics: Sequence[_Statistics]) -> None:
    if statistics:
        flat = all_reduce(torch.cat([s.sums for s in statistics], dim=1))
        widths = [s.layer.num_features for s in statistics]
        for each, sums in zip(statistics, flat.split(widths, dim=1), strict=True):
            each.sums.copy_(sums)


@contextmanager
def _gathering(models: Sequence[nn.Module]) -> Iterator[list[_Statistics]]:
    modules = (module for model in models for module in model.modules())
    layers = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
    statistics = [_Statistics(layer) for layer in layers]
    hooks = [s.layer.register_forward_hook(s.add) for s in statistics]
    try:
        yield statistics
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def update_bn_statistics(model: nn.Module | Sequence[nn.Module], batches: Iterable[Tensor]) -> int:
    """Replaces running means and variances by the ones of all ``batches``; returns their number.

    In a run of several processes the batches of all count, and each gives the same number.

    The model, or each of several, runs in training mode with its weights as they are (Wu &
    Johnson, "Rethinking 'Batch' in BatchNorm", sec. 3). Octave layers are counted per frequency.
    If the batches end early, by an error or because there are none, the statistics stay as they
    were. The random numbers of training are left alone: dropout draws from a copy of their state.
    A compiled model runs uncompiled, as its graph does not call hooks.
    """
    models = [model] if isinstance(model, nn.Module) else list(model)
    were_training, num_batches = [m.training for m in models], 0
    for each in models:
        each.train()
    devices = {p.device for m in models for p in m.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices), _gathering(models) as statistics:
        complete = False
        try:
            for batch in batches:
                for each in models:
                    call_as_written(each, batch)
                num_batches += 1
            complete = num_batches > 0
            if complete:
                _sum_over_processes(statistics)
        finally:
            for layer_statistics in statistics:
                layer_statistics.finish(apply=complete)
            for each, was_training in zip(models, were_training, strict=True):
                each.train(was_training)
    return num_batches


def has_finite_statistics(model: nn.Module) -> bool:
    """Whether no batch that overflowed (in fp16) has spoilt the running statistics."""
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    return all(torch.stack([b.isfinite().all() for b in buffers]).tolist()) if buffers else True


class WeightAverage:
    """The exponential moving average of a model's weights, kept in a model of its own, `model`.

    Each update: average = decay * average + (1 - decay) * weights, for all parameters and for the
    running statistics of batch norm; counters are copied. Precise batch norm replaces those
    statistics by the ones of the averaged weights themselves. The average begins with the weights
    at the time of `restart`.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(source).requires_grad_(False).eval()
        pairs = list(
            zip(self.model.state_dict().values(), source.state_dict().values(), strict=True)
        )
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    def restart(self) -> None:
        """Sets the average to the present weights."""
        for own, other in self._averaged + self._copied:
            own.copy_(other)

    def update(self) -> None:
        """Takes in the weights after an optimizer step. Stays on the device."""
        own, others = zip(*self._averaged, strict=True)
        lerp_(own, others, 1 - self.decay)
        for own_counter, other in self._copied:
            own_counter.copy_(other)

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, object]:
        return {"ema_state": self.model.state_dict()}

    def check_state(self, saved: Saved) -> Load:
        """A file without an average restarts it, from the weights that were loaded before it."""
        if "ema_state" in saved:
            return check_weights(self.model, saved.get("ema_state"), saved.path)

        def load() -> None:
            self.restart()
            text = "%s has no average of the weights: EMA begins with its weights"
            logger.warning(text, saved.path)

        return load
