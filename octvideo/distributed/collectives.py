"""The processes of a run: which one is this, and what they tell each other.

All of it works in a run of one process too, where nothing has to be sent.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from octvideo.distributed.launcher_env import World
from octvideo.utils.errors import UserError

T = TypeVar("T")

_OPS = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}

_world = World()
_control: dist.ProcessGroup | None = None  # gloo; the default group where that is gloo
_timeout: timedelta | None = None  # of the barrier; the other collectives have that of the group


def start(world: World, store: dist.Store, backend: str, timeout: timedelta) -> None:
    """Joins the process groups: ``backend`` for the tensors of its devices, gloo for the rest.

    ``timeout`` is how long a collective waits for a process that does not come.
    """
    global _world, _control, _timeout
    device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else None
    dist.init_process_group(
        backend,
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=timeout,
        device_id=device,
    )
    _world, _timeout = world, timeout
    _control = None if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)


def stop() -> None:
    """Leaves the process groups."""
    global _world, _control, _timeout
    if _is_started():
        dist.destroy_process_group()
    _world, _control, _timeout = World(), None, None


def _is_started() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, 0 in a run of one."""
    return dist.get_rank() if _is_started() else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if _is_started() else 1


def local_rank() -> int:
    """The number of this process on its node."""
    return _world.local_rank


def local_world_size() -> int:
    """How many processes each node has."""
    return _world.local_size


def is_main() -> bool:
    """Whether this process writes the files and logs of the run."""
    return rank() == 0


def barrier() -> None:
    """Waits until every process has come here; names those that do not."""
    if world_size() > 1:
        dist.monitored_barrier(_control, _timeout, wait_all_ranks=True)


def all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
    """The sum, mean or max over all processes, written into ``tensor``; on CPU or GPU."""
    if world_size() > 1:
        dist.all_reduce(tensor, _OPS[op], group=_control if tensor.is_cpu else None)
        if op == "mean":
            tensor /= world_size()
    return tensor


def largest(number: int) -> int:
    """That of all processes: a word on the wire, without the device."""
    return number if world_size() == 1 else int(all_reduce(torch.tensor(int(number)), "max"))


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """That of process ``source``, written into ``tensor``; on CPU or GPU."""
    if world_size() > 1:
        dist.broadcast(tensor, source, group=_control if tensor.is_cpu else None)
    return tensor


def broadcast_object(obj: Any, source: int = 0) -> Any:
    """The ``obj`` of process ``source``, on every process."""
    if world_size() == 1:
        return obj
    values = [obj]
    dist.broadcast_object_list(values, source, group=_control, device=torch.device("cpu"))
    return values[0]


def gather_objects(obj: Any) -> list[Any] | None:
    """The ``obj`` of every process, in their order, on the main one; None on the others."""
    if world_size() == 1:
        return [obj]
    values = [None] * world_size() if is_main() else None
    dist.gather_object(obj, values, group=_control)
    return values


def all_gather_objects(obj: Any) -> list[Any]:
    """The ``obj`` of every process, in their order, on all of them."""
    if world_size() == 1:
        return [obj]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, obj, group=_control)
    return values


def on_main(function: Callable[[], T]) -> T:
    """What ``function()`` of the main process gives, on every process, or its UserError."""
    result, error = None, None
    if is_main():
        result, error = _attempt(function)
    result, error = broadcast_object((result, error))
    if error is not None:
        raise error
    return result


def on_all(function: Callable[[], T]) -> T:
    """``function()``; a UserError of one process is raised on every one."""
    result, error = _attempt(function)
    for failure in all_gather_objects(error):
        if failure is not None:
            raise failure
    return cast(T, result)


def _attempt(function: Callable[[], T]) -> tuple[T | None, UserError | None]:
    try:
        return function(), None
    except UserError as error:
        return None, error
