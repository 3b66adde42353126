"""What processes tell each other: in a run of one, and between two real ones."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed
import torch.multiprocessing as mp

from octvideo.distributed import collectives
from octvideo.distributed.launcher_env import LauncherEnv


def test_a_run_of_one():
    assert (collectives.rank(), collectives.world_size(), collectives.is_main()) == (0, 1, True)
    assert (collectives.local_rank(), collectives.local_world_size()) == (0, 1)
    assert collectives.all_reduce(torch.tensor([3.0]), "mean").item() == 3
    assert collectives.broadcast_object("x") == "x"
    assert collectives.gather_objects("x") == collectives.all_gather_objects("x") == ["x"]
    collectives.barrier()


def _process(rank: int, port: int) -> None:
    timeout = timedelta(seconds=60)
    store = torch.distributed.TCPStore("localhost", port, 2, rank == 0, timeout)
    collectives.start(LauncherEnv(rank, 2, rank, 2), store, "gloo", timeout)
    assert (collectives.rank(), collectives.world_size(), collectives.is_main()) == (
        rank,
        2,
        rank == 0,
    )
    assert (collectives.local_rank(), collectives.local_world_size()) == (rank, 2)
    for op, expected in (("sum", [3, 30]), ("mean", [1.5, 15]), ("max", [2, 20])):
        mine = torch.tensor([1.0, 10.0]) * (rank + 1)
        assert collectives.all_reduce(mine, op).tolist() == expected
        assert mine.tolist() == expected
    assert collectives.broadcast_object({"rank": rank}) == {"rank": 0}
    assert collectives.broadcast_object({"rank": rank}, source=1) == {"rank": 1}
    assert collectives.gather_objects([rank]) == ([[0], [1]] if rank == 0 else None)
    assert collectives.all_gather_objects([rank]) == [[0], [1]]
    collectives.barrier()
    collectives.stop()
    assert collectives.world_size() == 1


@pytest.mark.timeout(120)
def test_two_processes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port,), nprocs=2)
