"""The processes of a run, as torchrun or SLURM describe them in the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fvcore.common.config import CfgNode

from octvideo.config import Processes
from octvideo.utils.errors import UserError


@dataclass(frozen=True)
class LauncherEnv:
    """The place of one process among those that train one model, in the words of torchrun.

    Every node has ``local_world_size`` processes; rank 0 listens at ``address:port``.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str = "localhost"
    port: int = 0
    launcher: str = ""  # torchrun, SLURM, or "" for processes that the run starts itself

    @property
    def nodes(self) -> int:
        return self.world_size // self.local_world_size


def launched_processes() -> Processes | None:
    """Returns the processes that torchrun or SLURM has started; None where neither has."""
    env = read_launcher_env()
    return Processes(env.local_world_size, env.nodes, env.launcher) if env else None


def processes_of(cfg: CfgNode) -> Processes:
    """Returns the processes of a run: those that were started, else those it will start."""
    return launched_processes() or Processes.of(cfg)


def read_launcher_env(environ: Mapping[str, str] = os.environ) -> LauncherEnv | None:
    """Returns what torchrun or ``srun`` say about this process; None for a process on its own.

    A batch script or ``salloc`` shell of SLURM, and an ``srun`` of one task, are on their own.

    Raises:
        UserError: variables are missing or contradict each other.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _torchrun(environ)
    # Only steps count: SLURM_NTASKS and SLURM_PROCID are also set in the batch script of a job.
    if _number(environ, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return _slurm(environ)
    if _number(environ, "WORLD_SIZE", 1) > 1:
        raise UserError(
            f"WORLD_SIZE is {environ['WORLD_SIZE']} but RANK is not set: start the processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    return None


def _torchrun(environ: Mapping[str, str]) -> LauncherEnv:
    env = LauncherEnv(
        rank=_number(environ, "RANK"),
        world_size=_number(environ, "WORLD_SIZE"),
        local_rank=_number(environ, "LOCAL_RANK"),
        local_world_size=_number(environ, "LOCAL_WORLD_SIZE"),
        address=_text(environ, "MASTER_ADDR"),
        port=_number(environ, "MASTER_PORT"),
        launcher="torchrun",
    )
    return _checked(env)


def advice_on_restarts(environ: Mapping[str, str] = os.environ) -> str:
    """Returns what torchrun on several nodes lacks to replace a lost node, or "".

    Its agents keep the address of the first store that they share. A new agent never learns it,
    and it may be gone with the lost node: all wait for a minute and exit (torch 2.13).
    """
    shares = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    several = _number(environ, "GROUP_WORLD_SIZE", 1) > 1
    if not (shares and several and _number(environ, "TORCHELASTIC_MAX_RESTARTS", 0) > 0):
        return ""
    return (
        "torchrun cannot replace a lost node: to make that possible, set "
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun on every node"
    )


def _slurm(environ: Mapping[str, str]) -> LauncherEnv:
    per_node = _text(environ, "SLURM_STEP_TASKS_PER_NODE")
    counts = set(re.sub(r"\(x\d+\)", "", per_node).split(","))
    if len(counts) > 1:
        raise UserError(
            f"SLURM starts different numbers of processes on the nodes ({per_node}): "
            "ask for --ntasks-per-node instead of --ntasks"
        )
    # Neither jobs that share a node nor the steps of one job may share a port.
    job, step = _number(environ, "SLURM_JOB_ID"), _number(environ, "SLURM_STEP_ID", 0)
    env = LauncherEnv(
        rank=_number(environ, "SLURM_PROCID"),
        world_size=_number(environ, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(environ, "SLURM_LOCALID"),
        local_world_size=int(counts.pop()),
        address=environ.get("MASTER_ADDR") or first_host(_text(environ, "SLURM_STEP_NODELIST")),
        port=_number(environ, "MASTER_PORT", 12000 + (7 * job + step) % 20000),
        launcher="SLURM",
    )
    return _checked(env)


def first_host(nodes: str) -> str:
    """Returns the first name of SLURM's short form: ``gpu07`` of ``gpu[07-09,12],login1``."""
    name = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert name is not None  # it matches the empty string too
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", name.group())


def _checked(env: LauncherEnv) -> LauncherEnv:
    if 0 <= env.rank < env.world_size and 0 <= env.local_rank < env.local_world_size:
        return env
    raise UserError(
        f"{env.launcher} describes process {env.rank} of {env.world_size}, number "
        f"{env.local_rank} of {env.local_world_size} on its node: numbers are counted from 0"
    )


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
