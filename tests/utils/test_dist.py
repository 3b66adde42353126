"""What processes tell each other: in a run of one, and between two real ones."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed
import torch.multiprocessing as mp

from octvideo.utils import dist
from octvideo.utils.world import World


def test_a_run_of_one():
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (0, 1, True)
    assert (dist.local_rank(), dist.local_world_size()) == (0, 1)
    assert dist.all_reduce(torch.tensor([3.0]), "mean").item() == 3
    assert dist.broadcast_object("x") == "x"
    assert dist.gather_objects("x") == dist.all_gather_objects("x") == ["x"]
    dist.barrier()


def _process(rank: int, port: int) -> None:
    timeout = timedelta(seconds=60)
    store = torch.distributed.TCPStore("localhost", port, 2, rank == 0, timeout)
    dist.start(World(rank, 2, rank, 2), store, "gloo", timeout)
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (rank, 2, rank == 0)
    assert (dist.local_rank(), dist.local_world_size()) == (rank, 2)
    for op, expected in (("sum", [3, 30]), ("mean", [1.5, 15]), ("max", [2, 20])):
        mine = torch.tensor([1.0, 10.0]) * (rank + 1)
        assert dist.all_reduce(mine, op).tolist() == expected
        assert mine.tolist() == expected
    assert dist.broadcast_object({"rank": rank}) == {"rank": 0}
    assert dist.broadcast_object({"rank": rank}, source=1) == {"rank": 1}
    assert dist.gather_objects([rank]) == ([[0], [1]] if rank == 0 else None)
    assert dist.all_gather_objects([rank]) == [[0], [1]]
    dist.barrier()
    dist.stop()
    assert dist.world_size() == 1


@pytest.mark.timeout(120)
def test_two_processes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port,), nprocs=2)
