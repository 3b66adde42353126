"""Activation checkpointing: a block keeps its input only, and runs again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from octvideo.layers import OctTensor, Value


def run_and_recompute(block: nn.Module, x: Any) -> Any:
    """Returns ``block(x)``, with the same gradients and the same statistics of batch norm.

    The block must not draw random numbers (dropout is in the head only).
    """

    # The maps rather than the value that holds them: a compiler traces tensors, and what the value
    # remembers of the first pass must not be there in the second.
    is_octave = isinstance(x, OctTensor)
    maps = (x.high, x.low) if isinstance(x, OctTensor) else (x,)

    def run(*maps: Tensor) -> Tensor | tuple[Tensor | None, ...]:
        y: Value = block(OctTensor(maps[0], maps[1]) if is_octave else maps[0])
        return (y.high, y.low) if isinstance(y, OctTensor) else y

    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if not torch.compiler.is_compiling():  # a graph has no side effects to be made twice
        options["context_fn"] = lambda: (nullcontext(), _statistics_left_alone(block))
    y = checkpoint(run, *maps, **options)
    return OctTensor(*y) if isinstance(y, tuple) else y


@contextmanager
def _statistics_left_alone(block: nn.Module) -> Iterator[None]:
    """Batch norm updates copies: the batch was counted the first time."""
    layers = [layer for layer in block.modules() if isinstance(layer, _BatchNorm)]
    kept = [(layer, name, buffer) for layer in layers for name, buffer in layer.named_buffers()]
    try:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer.clone())
        yield
    finally:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer)
