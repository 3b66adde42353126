"""Starts a run: alone, as one of the processes of torchrun or SLURM, or as several of its own.

Exit statuses, the same in every process of a run:
    0    done
    1    a fault of the program, with its traceback
    2    the configuration, the machine or the data: a message says what to change
    3    a process did not arrive, or was lost
    75   stopped by SIGUSR1 to make room: start it again, and it resumes
    130, 143, ...  128 + the number of another signal that stopped it; it resumes as well
"""

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import torch
from torch.distributed import DistError, Store

from octvideo.distributed import collectives
from octvideo.distributed.launcher_env import LauncherEnv, advice_on_restarts, read_launcher_env
from octvideo.distributed.local_processes import run_processes
from octvideo.distributed.preemption import Preempted
from octvideo.distributed.rendezvous import (
    PeerError,
    PeerInfo,
    RunCancelled,
    first_line,
    meet_peers,
)
from octvideo.distributed.signals import exit_status, leave_undisturbed
from octvideo.distributed.time_limit import TimedCalls, end_process_after
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")

INIT_METHOD = "tcp://localhost:9999"  # as in PySlowFast

_ANSWER = 5.0  # seconds that a question to rank 0 may take when the run has failed


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Job:
    """What the processes of a run do together.

    Args:
        run: the work of one process. It must be picklable: spawned processes receive it.
        check: finds, before any work, what would end the job; it raises a UserError.
        settings: what all processes must agree on.
        num_gpus: of this node; it has one process for each GPU, or one on the CPU.
        nodes, node: how many there are, and which one this is, if no launcher says so.
        backend: for tensors on GPUs.
        timeout: seconds to wait for a missing process.
    """

    run: Callable[[], None]
    check: Callable[[], None] = _nothing
    settings: Mapping[str, str] = field(default_factory=dict)
    num_gpus: int = 0
    nodes: int = 1
    node: int = 0
    backend: str = "nccl"
    timeout: float = 600.0


def launch(load: Callable[[], Sequence[Job]], init_method: str | None = None) -> int:
    """Does the jobs that ``load()`` gives, one after another; returns the exit status.

    Args:
        init_method: ``tcp://HOST:PORT`` of the first node, for several nodes without torchrun or
            SLURM.
    """
    try:
        env = read_launcher_env()
        if env is not None and env.world_size > 1:
            return _run_member(*_checked(load), env)
        jobs = load()
        for job in jobs:
            job.check()
        for job in jobs:
            if status := _run_alone(job, init_method):
                return status
    except Preempted as preemption:
        return _stopped(preemption)
    except UserError as error:
        logger.error("%s", error)
        return 3 if isinstance(error, PeerError) else 2
    except KeyboardInterrupt:  # while starting, or the second one
        return 130
    return 0


def _checked(load: Callable[[], Sequence[Job]]) -> tuple[Sequence[Job], str]:
    """Returns the jobs, and what is wrong with them or with this machine."""
    jobs: Sequence[Job] = []
    try:
        jobs = load()
        for job in jobs:
            job.check()
    except UserError as error:
        return jobs, str(error)
    return jobs, ""


def _stopped(preemption: Preempted) -> int:
    if collectives.is_main():
        text = "Stopped by %s; the same command resumes from the newest checkpoint"
        logger.warning(text, preemption)
    return exit_status(preemption.signum)


# ---------------------------------------------------------------- without a launcher


def _run_alone(job: Job, init_method: str | None) -> int:
    """Does the job in this process if it is the only one of its node, else in one for each GPU."""
    count = max(1, job.num_gpus)
    if count * job.nodes == 1 or read_launcher_env() is not None:
        job.run()
        return 0
    host, port = _address(init_method, job.nodes)
    processes = [
        partial(
            _run_on_node,
            job,
            LauncherEnv(job.node * count + rank, job.nodes * count, rank, count, host, port),
        )
        for rank in range(count)
    ]
    return processes[0]() if count == 1 else run_processes(processes)


def _run_on_node(job: Job, env: LauncherEnv) -> int:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // env.local_world_size))
    return _run_member([job], "", env)


def _address(init_method: str | None, nodes: int) -> tuple[str, int]:
    if nodes == 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            return "localhost", free.getsockname()[1]
    method = init_method or INIT_METHOD
    match = re.fullmatch(r"tcp://(.+):(\d+)", method)
    if match is None:
        raise UserError(f"--init_method is {method!r}: expected tcp://HOST:PORT")
    return match[1].strip("[]"), int(match[2])


# ---------------------------------------------------------------- one of several processes


def _run_member(jobs: Sequence[Job], problem: str, env: LauncherEnv) -> int:
    """Does the jobs together with the other processes, unless one of them has a problem."""
    if env.rank:  # rank 0 reports what all have to report
        logger.setLevel(logging.CRITICAL)
    store = None
    try:
        store = _connect(jobs, problem, env)
        logger.setLevel(logging.WARNING)
        for job in jobs:
            job.run()
        collectives.barrier()
        collectives.stop()
        return 0
    except Preempted as preemption:
        status = _stopped(preemption)
        leave_undisturbed()
        _leave()
    except RunCancelled as reason:
        if env.rank == 0:
            logger.error("%s", reason)
        else:
            time.sleep(2)  # rank 0 reports before a launcher ends all with the first that fails
        status = reason.status
    except UserError as error:
        if _is_first_failure(store):
            logger.setLevel(logging.WARNING)
            logger.error("%s", error)
        status = 3 if isinstance(error, PeerError) else 2
        _wait_for_others(store, env)
    except KeyboardInterrupt:
        status = 130
    except RuntimeError as error:
        if not _is_of_peers(error):
            _is_first_failure(store)
            raise
        if _is_first_failure(store) and env.local_rank == 0:
            text = "rank %d ends: another process is lost or does not answer (%s)"
            logger.error(text, env.rank, first_line(error))
        status = 3
    _end(status)
    return status


def _connect(jobs: Sequence[Job], problem: str, env: LauncherEnv) -> Store:
    """Finds the other processes, compares settings, and joins the process groups."""
    timeout = min([job.timeout for job in jobs], default=Job.timeout)
    settings = {
        key if len(jobs) == 1 else f"{key} (configuration {number})": value
        for number, job in enumerate(jobs, 1)
        for key, value in job.settings.items()
    }
    info = PeerInfo(socket.gethostname(), env.local_world_size, settings, problem)
    store = meet_peers(env, info, timeout)
    if env.rank == 0 and (advice := advice_on_restarts()):
        logger.warning(advice)
    on_gpu = [job for job in jobs if job.num_gpus]
    if on_gpu:
        torch.cuda.set_device(process_device(True, env.local_rank))
    backend = on_gpu[0].backend if on_gpu else "gloo"
    late = f"rank {env.rank} ends: the processes could not be connected within {timeout:g} s"
    with end_process_after(timeout + _ANSWER, 3, late):  # torch, too, asks the store of rank 0
        collectives.start(env, store, backend, timedelta(seconds=timeout))
    return store


def process_device(on_gpu: bool, local_rank: int) -> torch.device:
    """Returns the device of the process with this number on its node.

    SLURM may show a process only its own GPU, which then is the first one.
    """
    if not on_gpu:
        return torch.device("cpu")
    return torch.device("cuda", local_rank if torch.cuda.device_count() > 1 else 0)


def _leave() -> None:
    """Leaves together: a launcher ends the others when it sees one process exit with an error."""
    try:
        collectives.barrier()
        collectives.stop()
    except RuntimeError as error:
        logger.debug("while leaving: %s", error)


def _is_first_failure(store: Store | None) -> bool:
    """Returns whether this process is the one that reports what went wrong."""
    if store is None:
        return True
    try:
        with TimedCalls() as calls:
            return calls.ask(lambda: store.add("failures", 1), _ANSWER) == 1
    except (DistError, RuntimeError, TimeoutError):  # the store is gone with rank 0, or frozen
        return True


def _wait_for_others(store: Store | None, env: LauncherEnv) -> None:
    """Waits a moment, so that the others receive all of the error that this process has sent."""
    if store is None:
        return
    until = time.monotonic() + _ANSWER
    try:
        with TimedCalls() as calls:
            while calls.ask(lambda: store.add("failures", 0), _ANSWER) < env.world_size:
                if time.monotonic() > until:
                    return
                time.sleep(0.05)
    except (DistError, RuntimeError, TimeoutError):  # the store is gone with rank 0, or frozen
        return


def _is_of_peers(error: RuntimeError) -> bool:
    """Returns whether a collective failed, as opposed to a fault of this process."""
    words = r"gloo|NCCL|Connection (closed|reset)|monitoredBarrier"
    return isinstance(error, DistError) or re.search(words, str(error)) is not None


def _end(status: int) -> None:
    """Exits at once: a group that has lost members cannot be left in an orderly way."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
