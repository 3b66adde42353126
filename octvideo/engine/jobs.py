"""What a configuration asks for, as a job for the processes of a run: train, then test."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from fvcore.common.config import CfgNode

from octvideo.config.keys import leaf_values
from octvideo.distributed import launcher
from octvideo.distributed.collectives import is_main
from octvideo.engine.start import Build, check_run
from octvideo.engine.test import run_test
from octvideo.engine.train import run_train
from octvideo.models import build_model
from octvideo.utils.memory import advice_when_out_of_memory

logger = logging.getLogger("octvideo")


def launch(
    load: Callable[[], Sequence[CfgNode]],
    init_method: str | None = None,
    build: Build = build_model,
) -> int:
    """Trains and tests as the configurations of ``load()`` say; returns the exit status.

    Args:
        init_method: ``tcp://HOST:PORT`` of the first node, for NUM_SHARDS above 1 without torchrun
            or SLURM.
        build: makes the network of a configuration. It must be picklable (a function of a module):
            spawned processes receive it.
    """
    return launcher.launch(lambda: [build_job(cfg, build) for cfg in load()], init_method)


def build_job(cfg: CfgNode, build: Build = build_model) -> launcher.Job:
    """Returns the job of a configuration."""
    settings = {key: repr(value) for key, value in leaf_values(cfg).items() if key != "SHARD_ID"}
    return launcher.Job(
        run=partial(run_job, cfg, build),
        check=partial(check_run, cfg, build),
        settings=settings,
        num_gpus=cfg.NUM_GPUS,
        nodes=cfg.NUM_SHARDS,
        node=cfg.SHARD_ID,
        backend=cfg.DIST_BACKEND,
        timeout=cfg.DIST_TIMEOUT,
    )


def run_job(cfg: CfgNode, build: Build = build_model) -> None:
    """Does in this process what TRAIN.ENABLE and TEST.ENABLE ask for."""
    trained = None
    if cfg.TRAIN.ENABLE:
        advice = (
            f"lower TRAIN.BATCH_SIZE, {cfg.TRAIN.BATCH_SIZE}, or raise TRAIN.ACCUMULATE_STEPS, or "
            "set MODEL.ACT_CHECKPOINT True, or TRAIN.PRECISION bf16"
        )
        with advice_when_out_of_memory("training", advice):
            trained = run_train(cfg, build)
    if cfg.TEST.ENABLE:
        advice = f"lower TEST.BATCH_SIZE, {cfg.TEST.BATCH_SIZE}"
        with advice_when_out_of_memory("the test", advice):
            run_test(cfg, trained, build)
    if not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE) and is_main():
        logger.warning("TRAIN.ENABLE and TEST.ENABLE are both False: there is nothing to do")
