"""Runs a function in several real processes that form a gloo group, with a time limit."""

import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(
    fn: Callable[..., Any], world_size: int, folder: Path, *args: Any, timeout: float = 60
) -> list[Any]:
    """What ``fn(rank, *args)`` returns in each process; ``fn`` is a function of a module.

    Fails the test where a process fails, or has not ended after ``timeout`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mp.set_forkserver_preload(["torch", "octvideo.engine"])
    context = mp.start_processes(
        _run,
        (fn, world_size, folder, timeout, args),
        nprocs=world_size,
        join=False,
        start_method="forkserver",
    )
    deadline = time.monotonic() + timeout
    try:
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                pytest.fail(f"{fn.__name__} has not ended after {timeout} s")
    except mp.ProcessRaisedException:
        errors = [path.read_text() for path in sorted(folder.glob("error-*.txt"))]
        pytest.fail("\n".join(errors))
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _run(
    rank: int, fn: Callable[..., Any], world_size: int, folder: Path, timeout: float, args: tuple
) -> None:
    torch.set_num_threads(1)
    # as torchrun describes one node
    world = {"RANK": rank, "WORLD_SIZE": world_size}
    world |= {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({key: str(value) for key, value in world.items()})
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="29500")  # the file below is used
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout),
    )
    try:
        torch.save(fn(rank, *args), folder / f"{rank}.pt")
    except BaseException:
        (folder / f"error-{rank}.txt").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise
    finally:
        dist.destroy_process_group()
