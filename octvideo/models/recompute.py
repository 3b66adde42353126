"""Activation checkpointing: a block keeps its input only, and runs again in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from octvideo.layers import Value


def run_and_recompute(block: nn.Module, x: Value) -> Value:
    """``block(x)`` with the same gradients and the same statistics of batch norm.

    The block must not draw random numbers (dropout is in the head only).
    """
    return _checkpoint(block, x, block)


def norm_relu_pool(norm: nn.Module, pool: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """pool(relu(norm(x))), the end of a stem, of which training keeps x alone.

    The maps of a stem are the largest of a network and the cheapest to make again: kept, they are
    7 % of the memory of a training step of I3D.
    """

    def run(x: Tensor) -> Tensor:
        return pool(F.relu_(norm(x)))

    return _checkpoint(run, x, norm) if norm.training and torch.is_grad_enabled() else run(x)


def _checkpoint(run: Callable[[Any], Any], x: Value, owner: nn.Module) -> Any:
    """owner: has the batch norms that ``run`` calls."""
    if torch.compiler.is_compiling():  # a graph has no side effects to be made twice
        return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
    return checkpoint(
        run,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _statistics_left_alone(owner)),
    )


@contextmanager
def _statistics_left_alone(owner: nn.Module) -> Iterator[None]:
    """Batch norm updates copies: the batch was counted the first time."""
    layers = [layer for layer in owner.modules() if isinstance(layer, _BatchNorm)]
    kept = [(layer, name, buffer) for layer in layers for name, buffer in layer.named_buffers()]
    try:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer.clone())
        yield
    finally:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer)
