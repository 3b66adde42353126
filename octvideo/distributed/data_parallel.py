"""One model in several processes: gradients are averaged, the main process decides the rest."""

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from octvideo.distributed.collectives import broadcast, world_size


def distribute(model: nn.Module) -> nn.Module:
    """Returns the module to call in a training step: its gradients are means over all processes.

    Parameters, buffers and their names stay the model's own. Each process keeps its own running
    statistics of batch norm, which nothing reads during training, until ``share_buffers``.
    """
    if world_size() == 1:
        return model
    # Strides differ along axes of one element (1x1x1 kernels), where any stride is the same memory.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers"  # since torch 2.13
    options: dict[str, Any] = {name if name in known else "broadcast_buffers": False}
    # No parameter is unused, and torch warns about that. But without this option it reorders the
    # gradients after the first step: a resumed run, whose first step comes later, would add up the
    # gradients of three processes in another order, and no longer match the uninterrupted run.
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    options["find_unused_parameters"] = on_cpu and world_size() > 2
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


def share_weights(*models: nn.Module) -> None:
    """Gives every process the parameters and buffers of the main one."""
    _share(p.data for model in models for p in model.parameters())
    share_buffers(*models)


def share_buffers(*models: nn.Module) -> None:
    """Gives every process the running statistics of the main one (PySlowFast does every step)."""
    _share(buffer for model in models for buffer in model.buffers())


def _share(tensors: Iterable[Tensor]) -> None:
    if world_size() == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        flat = broadcast(torch.cat([tensor.reshape(-1) for tensor in alike]))
        for tensor, values in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
            tensor.copy_(values.view(tensor.shape))
