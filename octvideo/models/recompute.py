"""Activation checkpointing: a block keeps its input only, and runs again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from octvideo.layers.oct_tensor import without_pooled


def run_and_recompute(block: nn.Module, x: Tensor) -> Tensor:
    """Returns ``block(x)``, with the same gradients and the same statistics of batch norm.

    The block must not draw random numbers (dropout is in the head only).
    """

    def run(x: Tensor) -> Tensor:
        return block(without_pooled(x))  # both times

    if torch.compiler.is_compiling():  # a graph has no side effects to be made twice
        return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
    return checkpoint(
        run,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _statistics_left_alone(block)),
    )


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
