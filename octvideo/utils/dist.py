"""Who am I among the processes of a run."""

import torch.distributed as dist


def rank() -> int:
    """The number of this process, 0 in a run of one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and logs of the run."""
    return rank() == 0
