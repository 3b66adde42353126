"""Which process of a run this is, and how the processes exchange values.

Everything here also works in a run of one process, where nothing has to be sent.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from octvideo.distributed.launcher_env import LauncherEnv
from octvideo.utils.errors import UserError

T = TypeVar("T")

_OPS = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}

_env = LauncherEnv()
_control: dist.ProcessGroup | None = None  # gloo; the default group where that is gloo
_timeout: timedelta | None = None  # of the barrier; the other collectives have the group's


def start(env: LauncherEnv, store: dist.Store, backend: str, timeout: timedelta) -> None:
    """Joins the process groups: ``backend`` for tensors on its devices, gloo for everything else.

    ``timeout`` is how long a collective waits for a missing process.
    """
    global _env, _control, _timeout
    device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else None
    dist.init_process_group(
        backend,
        store=store,
        rank=env.rank,
        world_size=env.world_size,
        timeout=timeout,
        device_id=device,
    )
    _env, _timeout = env, timeout
    _control = None if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)


def stop() -> None:
    """Leaves the process groups."""
    global _env, _control, _timeout
    if _is_started():
        dist.destroy_process_group()
    _env, _control, _timeout = LauncherEnv(), None, None


def _is_started() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Returns the number of this process, 0 in a run of one."""
    return dist.get_rank() if _is_started() else 0


def world_size() -> int:
    """Returns how many processes the run has."""
    return dist.get_world_size() if _is_started() else 1


def local_rank() -> int:
    """Returns the number of this process on its node."""
    return _env.local_rank


def local_world_size() -> int:
    """Returns how many processes each node has."""
    return _env.local_world_size


def is_main() -> bool:
    """Returns whether this process writes the files and logs of the run."""
    return rank() == 0


def barrier() -> None:
    """Waits until every process has arrived; the error names the ones that have not."""
    if world_size() > 1:
        dist.monitored_barrier(_control, _timeout, wait_all_ranks=True)


def all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
    """Overwrites ``tensor`` (CPU or GPU) with its sum, mean or max over all processes."""
    if world_size() > 1:
        dist.all_reduce(tensor, _OPS[op], group=_control if tensor.is_cpu else None)
        if op == "mean":
            tensor /= world_size()
    return tensor


def all_max(*numbers: int) -> list[int]:
    """Returns the largest value over all processes of each number: one small CPU message."""
    if world_size() == 1:
        return [int(number) for number in numbers]
    return [int(n) for n in all_reduce(torch.tensor(numbers, dtype=torch.long), "max").tolist()]


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Overwrites ``tensor`` (CPU or GPU) with the one of process ``source``."""
    if world_size() > 1:
        dist.broadcast(tensor, source, group=_control if tensor.is_cpu else None)
    return tensor


def broadcast_object(obj: T, source: int = 0) -> T:
    """Returns the ``obj`` of process ``source`` on every process."""
    if world_size() == 1:
        return obj
    values = [obj]
    dist.broadcast_object_list(values, source, group=_control, device=torch.device("cpu"))
    return values[0]


def gather_objects(obj: T) -> list[T] | None:
    """Returns the ``obj`` of every process, in rank order, on the main process; None elsewhere."""
    if world_size() == 1:
        return [obj]
    values = [obj] * world_size() if is_main() else None
    dist.gather_object(obj, values, group=_control)
    return values


def all_gather_objects(obj: T) -> list[T]:
    """Returns the ``obj`` of every process, in rank order, on all of them."""
    if world_size() == 1:
        return [obj]
    values = [obj] * world_size()
    dist.all_gather_object(values, obj, group=_control)
    return values


def on_main(function: Callable[[], T]) -> T:
    """Calls ``function`` on the main process; all processes return its result or its UserError."""
    result, error = _attempt(function) if is_main() else (None, None)
    result, error = broadcast_object((result, error))
    if error is not None:
        raise error
    return cast(T, result)


def on_all(function: Callable[[], T]) -> T:
    """Calls ``function`` on all processes; a UserError on one of them is raised on all."""
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
