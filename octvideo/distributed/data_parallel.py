"""One model in several processes: gradients are averaged, the main process decides the rest."""

import inspect
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from octvideo.distributed.collectives import broadcast, world_size


def distribute(model: nn.Module) -> nn.Module:
    """What to call in a training step, so that gradients are the means over all processes.

    Parameters, buffers and their names are the model's. The running statistics of batch norm are
    those of each process, as nothing in training reads them, until ``share_buffers``.
    """
    if world_size() == 1:
        return model
    # Those of an axis of one element, as of 1x1x1 kernels, where any stride is of the same memory.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers"  # from torch 2.13 on
    options = {name if name in known else "broadcast_buffers": False}
    # None are unused, as torch warns. But else it orders the gradients anew after the first step: a
    # run that goes on from a checkpoint, whose first step comes later, would add those of three
    # processes in another order and not be bit for bit the one that was never stopped.
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    options["find_unused_parameters"] = on_cpu and world_size() > 2
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


def share_weights(*models: nn.Module) -> None:
    """Gives every process the parameters and buffers that the main one has."""
    _share(p.data for model in models for p in model.parameters())
    share_buffers(*models)


def share_buffers(*models: nn.Module) -> None:
    """Gives every process the main one's running statistics, as PySlowFast does in each step."""
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
