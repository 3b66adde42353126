"""Starts a run: alone, as one of the processes of torchrun or SLURM, or as several of its own.

Exit statuses, the same in every process of a run:
    0    done
    1    a fault of the program, with its traceback
    2    the configuration, the machine or the data: a message says what to change
    3    a process did not come, or was lost
    75   asked by SIGUSR1 to make room: start it again, and it goes on
    130, 143, ...  128 + the number of another signal that asked it to stop; it goes on as well
"""

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
from fvcore.common.config import CfgNode
from torch.distributed import DistError, Store

from octvideo.config import processes_per_node
from octvideo.config.defaults import get_cfg, leaf_values
from octvideo.distributed import collectives
from octvideo.distributed.launcher_env import World, advice_on_restarts, launched_world
from octvideo.distributed.local_processes import run_processes
from octvideo.distributed.preemption import Interrupted
from octvideo.distributed.rendezvous import CalledOff, Sheet, WorldError, first_line, roll_call
from octvideo.distributed.signals import exit_status, leave_undisturbed
from octvideo.distributed.time_limit import ask, end_process_after
from octvideo.engine.start import check_run, process_device
from octvideo.engine.test import run_test
from octvideo.engine.train import run_train
from octvideo.utils.errors import UserError
from octvideo.utils.memory import advice_when_out_of_memory

logger = logging.getLogger("octvideo")

INIT_METHOD = "tcp://localhost:9999"  # as in PySlowFast

_ANSWER = 5.0  # seconds that a question to rank 0 may take when the run has failed

Load = Callable[[], list[CfgNode]]


def launch(load: Load, init_method: str | None = None) -> int:
    """Trains and tests, as the configurations that ``load()`` gives say; the exit status.

    Args:
        init_method: ``tcp://HOST:PORT`` of the first node, for NUM_SHARDS above 1 where neither
            torchrun nor SLURM starts the processes.
    """
    try:
        world = launched_world()
        if world is not None and world.size > 1:
            return _run_member(load, world)
        configurations = load()
        for cfg in configurations:
            check_run(cfg)
        for cfg in configurations:
            if status := _run_alone(cfg, init_method):
                return status
    except Interrupted as interruption:
        return _stopped(interruption)
    except UserError as error:
        logger.error("%s", error)
        return 3 if isinstance(error, WorldError) else 2
    except KeyboardInterrupt:  # while starting, or the second one
        return 130
    return 0


def run(cfg: CfgNode) -> None:
    """What TRAIN.ENABLE and TEST.ENABLE ask for, in this process."""
    trained = None
    if cfg.TRAIN.ENABLE:
        advice = (
            f"lower TRAIN.BATCH_SIZE, {cfg.TRAIN.BATCH_SIZE}, or raise TRAIN.ACCUMULATE_STEPS, or "
            "set MODEL.ACT_CHECKPOINT True, or TRAIN.PRECISION bf16"
        )
        with advice_when_out_of_memory("training", advice):
            trained = run_train(cfg)
    if cfg.TEST.ENABLE:
        advice = f"lower TEST.BATCH_SIZE, {cfg.TEST.BATCH_SIZE}"
        with advice_when_out_of_memory("the test", advice):
            run_test(cfg, trained)
    if not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE) and collectives.is_main():
        logger.warning("TRAIN.ENABLE and TEST.ENABLE are both False: there is nothing to do")


def _stopped(interruption: Interrupted) -> int:
    if collectives.is_main():
        text = "Stopped by %s; the same command goes on from the newest checkpoint"
        logger.warning(text, interruption)
    return exit_status(interruption.signum)


# ---------------------------------------------------------------- without a launcher


def _run_alone(cfg: CfgNode, init_method: str | None) -> int:
    """In this process if it is the only one of its node, else in as many as there are GPUs."""
    count = processes_per_node(cfg)
    if count * cfg.NUM_SHARDS == 1 or launched_world() is not None:
        run(cfg)
        return 0
    host, port = _address(init_method, cfg.NUM_SHARDS)
    worlds = [
        World(cfg.SHARD_ID * count + local, cfg.NUM_SHARDS * count, local, count, host, port)
        for local in range(count)
    ]
    if count == 1:
        return _run_member(lambda: [cfg], worlds[0])
    return run_processes(_child, [(cfg, world) for world in worlds])


def _child(cfg: CfgNode, world: World) -> int:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // world.local_size))
    return _run_member(lambda: [cfg], world)


def _address(init_method: str | None, num_shards: int) -> tuple[str, int]:
    if num_shards == 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            return "localhost", free.getsockname()[1]
    method = init_method or INIT_METHOD
    match = re.fullmatch(r"tcp://(.+):(\d+)", method)
    if match is None:
        raise UserError(f"--init_method is {method!r}: expected tcp://HOST:PORT")
    return match[1].strip("[]"), int(match[2])


# ---------------------------------------------------------------- one of several processes


def _run_member(load: Load, world: World) -> int:
    """What ``launch`` does, together with the other processes of ``world``."""
    if world.rank:  # what all have to say, rank 0 says
        logger.setLevel(logging.CRITICAL)
    store = None
    try:
        configurations, problem = _prepared(load)
        store = _meet(configurations, problem, world)
        logger.setLevel(logging.WARNING)
        for cfg in configurations:
            run(cfg)
        collectives.barrier()
        collectives.stop()
        return 0
    except Interrupted as interruption:
        status = _stopped(interruption)
        leave_undisturbed()
        _leave()
    except CalledOff as reason:
        if world.rank == 0:
            logger.error("%s", reason)
        else:
            time.sleep(2)  # a launcher ends all with the first that fails: rank 0 speaks before
        status = reason.status
    except UserError as error:
        if _is_first_failure(store):
            logger.setLevel(logging.WARNING)
            logger.error("%s", error)
        status = 3 if isinstance(error, WorldError) else 2
        _wait_for_others(store, world)
    except KeyboardInterrupt:
        status = 130
    except RuntimeError as error:
        if not _is_of_peers(error):
            _is_first_failure(store)
            raise
        if _is_first_failure(store) and world.local_rank == 0:
            text = "rank %d ends: another process is lost or does not answer (%s)"
            logger.error(text, world.rank, first_line(error))
        status = 3
    _end(status)
    return status


def _prepared(load: Load) -> tuple[list[CfgNode], str]:
    """The configurations, and what is wrong with them or with this machine."""
    configurations: list[CfgNode] = []
    try:
        configurations = load()
        for cfg in configurations:
            check_run(cfg)
    except UserError as error:
        return configurations, str(error)
    return configurations, ""


def _meet(configurations: list[CfgNode], problem: str, world: World) -> Store:
    """Finds the other processes, compares, and joins the process groups."""
    timeout = min([cfg.DIST_TIMEOUT for cfg in configurations or [get_cfg()]])
    settings = {
        key if len(configurations) == 1 else f"{key} (configuration {number})": repr(value)
        for number, cfg in enumerate(configurations, 1)
        for key, value in leaf_values(cfg).items()
        if key != "SHARD_ID"
    }
    sheet = Sheet(socket.gethostname(), world.local_size, settings, problem)
    store = roll_call(world, sheet, timeout)
    if world.rank == 0 and (advice := advice_on_restarts()):
        logger.warning(advice)
    gpus = [cfg for cfg in configurations if cfg.NUM_GPUS]
    if gpus:
        torch.cuda.set_device(process_device(gpus[0], world.local_rank))
    backend = gpus[0].DIST_BACKEND if gpus else "gloo"
    late = f"rank {world.rank} ends: the processes could not be connected within {timeout:g} s"
    with end_process_after(timeout + _ANSWER, 3, late):  # torch, too, asks the store of rank 0
        collectives.start(world, store, backend, timedelta(seconds=timeout))
    return store


def _leave() -> None:
    """Together: a launcher ends the others when it sees one process end with an error."""
    try:
        collectives.barrier()
        collectives.stop()
    except RuntimeError as error:
        logger.debug("while leaving: %s", error)


def _is_first_failure(store: Store | None) -> bool:
    """So that one process reports what went wrong, and not each of them."""
    try:
        return store is None or ask(lambda: store.add("failures", 1), _ANSWER) == 1
    except (DistError, RuntimeError, TimeoutError):  # the store has gone with rank 0, or is frozen
        return True


def _wait_for_others(store: Store | None, world: World) -> None:
    """Not long: those to which this process has just told an error must get to hear all of it."""
    if store is None:
        return
    until = time.monotonic() + _ANSWER
    try:
        while ask(lambda: store.add("failures", 0), _ANSWER) < world.size:
            if time.monotonic() > until:
                return
            time.sleep(0.05)
    except (DistError, RuntimeError, TimeoutError):  # the store has gone with rank 0, or is frozen
        return


def _is_of_peers(error: RuntimeError) -> bool:
    """Whether a collective failed, as opposed to a fault of this process."""
    words = r"gloo|NCCL|Connection (closed|reset)|monitoredBarrier"
    return isinstance(error, DistError) or re.search(words, str(error)) is not None


def _end(status: int) -> None:
    """At once: a group that has lost members can not be left in an orderly way."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
