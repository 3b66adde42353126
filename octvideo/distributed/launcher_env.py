"""Which processes a run has, as torchrun or SLURM describe them in the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from octvideo.utils.errors import UserError


@dataclass(frozen=True)
class World:
    """The place of this process among all that train one model.

    Every node has ``local_size`` processes; rank 0 listens at ``address:port``.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "localhost"
    port: int = 0
    launcher: str = ""  # torchrun, SLURM, or "" for processes that the run starts itself

    @property
    def nodes(self) -> int:
        return self.size // self.local_size

    @property
    def is_slurm(self) -> bool:
        return self.launcher == "SLURM"


def launched_world(environ: Mapping[str, str] = os.environ) -> World | None:
    """The world that torchrun or ``srun`` started this process in; None for a process alone.

    A batch script or ``salloc`` shell of SLURM, and an ``srun`` of one task, are alone.

    Raises:
        UserError: variables are missing or contradict each other.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _torchrun(environ)
    # Of steps alone: a job's own variables (SLURM_NTASKS, SLURM_PROCID) are in its script too.
    if _number(environ, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return _slurm(environ)
    if _number(environ, "WORLD_SIZE", 1) > 1:
        raise UserError(
            f"WORLD_SIZE is {environ['WORLD_SIZE']} but RANK is not set: start the processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    return None


def _torchrun(environ: Mapping[str, str]) -> World:
    world = World(
        rank=_number(environ, "RANK"),
        size=_number(environ, "WORLD_SIZE"),
        local_rank=_number(environ, "LOCAL_RANK"),
        local_size=_number(environ, "LOCAL_WORLD_SIZE"),
        address=_text(environ, "MASTER_ADDR"),
        port=_number(environ, "MASTER_PORT"),
        launcher="torchrun",
    )
    return _checked(world)


def advice_on_restarts(environ: Mapping[str, str] = os.environ) -> str:
    """What torchrun on several nodes lacks to take in a node that is replaced, or "".

    Its agents keep the address of the first store that they share, which a new agent never hears
    of, and which may have gone with the lost node: all wait for a minute and end. (torch 2.13)
    """
    shares = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    several = _number(environ, "GROUP_WORLD_SIZE", 1) > 1
    if not (shares and several and _number(environ, "TORCHELASTIC_MAX_RESTARTS", 0) > 0):
        return ""
    return (
        "torchrun cannot replace a lost node: to make that possible, set "
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun on every node"
    )


def _slurm(environ: Mapping[str, str]) -> World:
    size = _number(environ, "SLURM_STEP_NUM_TASKS")
    per_node = _text(environ, "SLURM_STEP_TASKS_PER_NODE")
    counts = set(re.sub(r"\(x\d+\)", "", per_node).split(","))
    if len(counts) > 1:
        raise UserError(
            f"SLURM starts different numbers of processes on the nodes ({per_node}): "
            "ask for --ntasks-per-node instead of --ntasks"
        )
    # Jobs that share a node must not share a port, nor must the steps of a job.
    job, step = _number(environ, "SLURM_JOB_ID"), _number(environ, "SLURM_STEP_ID", 0)
    world = World(
        rank=_number(environ, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environ, "SLURM_LOCALID"),
        local_size=int(counts.pop()),
        address=environ.get("MASTER_ADDR") or first_host(_text(environ, "SLURM_STEP_NODELIST")),
        port=_number(environ, "MASTER_PORT", 12000 + (7 * job + step) % 20000),
        launcher="SLURM",
    )
    return _checked(world)


def first_host(nodes: str) -> str:
    """The first name of SLURM's short form: ``gpu[07-09,12],login1`` begins with ``gpu07``."""
    name = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert name is not None  # it matches the empty string too
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", name.group())


def _checked(world: World) -> World:
    if not 0 <= world.rank < world.size or not 0 <= world.local_rank < world.local_size:
        raise UserError(
            f"{world.launcher} describes process {world.rank} of {world.size}, number "
            f"{world.local_rank} of {world.local_size} on its node: numbers are counted from 0"
        )
    return world


def _text(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if not value:
        known = ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
        others = ", ".join(f"{key} {environ[key]}" for key in known if key in environ)
        raise UserError(
            f"{name} is not set, but {others}: set it too, or start the processes with "
            "torchrun or srun"
        )
    return value


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and not environ.get(name):
        return default
    text = _text(environ, name)
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}: expected a whole number") from None
