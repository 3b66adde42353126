"""Training as a configuration says: the parts of a `Trainer`, and the run."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import (
    batch_per_process,
    describe_scaling,
    dump,
    input_shape,
    train_precision,
)
from octvideo.data import build_protocol, build_train_loader, build_val_loader, data_class_names
from octvideo.data.loader import EpochSampler
from octvideo.distributed.collectives import is_main, rank, world_size
from octvideo.distributed.launcher_env import processes_of
from octvideo.distributed.preemption import StopRequest
from octvideo.distributed.run_lock import training_lock
from octvideo.engine.averaging import WeightAverage
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.begin import Beginning
from octvideo.engine.checkpoint import list_checkpoints
from octvideo.engine.checkpointer import Checkpointer
from octvideo.engine.losses import build_loss, loss_of_scores
from octvideo.engine.meters import TrainMeter
from octvideo.engine.mixup import build_mixup
from octvideo.engine.optim import build_optimizer, build_schedule
from octvideo.engine.optimizer_state import OptimizerState
from octvideo.engine.precision import compile_model, move_model
from octvideo.engine.process_state import ProcessStates
from octvideo.engine.progress import Progress
from octvideo.engine.same_run import check_resume
from octvideo.engine.start import Build, start_run, write_config
from octvideo.engine.state import ModelState, Stateful
from octvideo.engine.step import TrainStep, Transfer
from octvideo.engine.train_log import build_train_log
from octvideo.engine.trainer import Plan, Trainer, Validation
from octvideo.engine.update import ScalerState, Update
from octvideo.models import build_model
from octvideo.models.classifier import Network
from octvideo.models.from_cfg import spec_of
from octvideo.utils.complexity import count
from octvideo.utils.plain import to_plain
from octvideo.weights import CheckpointError, read_weights
from octvideo.weights.converted import as_converted
from octvideo.weights.pretrained import weights_file

logger = logging.getLogger("octvideo")


def run_train(cfg: CfgNode, build: Build = build_model) -> Path:
    """Trains the model of ``cfg``, or resumes an earlier run of the same OUTPUT_DIR.

    Args:
        build: makes the network of a configuration; a study may train a variant of it.

    Returns:
        The checkpoint of the finished run.

    Raises:
        Preempted: a signal came; the checkpoint to resume from has been written.
        UserError: another process trains in OUTPUT_DIR.
        ConfigError, CheckpointError, ValueError: the message says what to change.
    """
    with training_lock(Path(cfg.OUTPUT_DIR)):
        device = start_run(cfg)
        line, warning = describe_scaling(cfg, processes_of(cfg))
        logger.info(line)
        if warning and is_main():
            logger.warning(warning)
        trainer = build_trainer(cfg, device, build)
        trainer.start()
        write_config(cfg)
        with StopRequest() as stop:
            return trainer.run(stop)


def build_trainer(cfg: CfgNode, device: torch.device, build: Build = build_model) -> Trainer:
    """Returns the trainer of a configuration; its ``start`` has to come before its ``run``."""
    model = _as_it_starts(build(cfg), cfg)
    if cfg.LOG_MODEL_INFO:
        log_model_info(model, cfg)
    step = build_step(cfg, move_model(model, device), device)
    if cfg.TRAIN.COMPILE:
        compile_model(model)
        if step.average:
            compile_model(step.average.model)
    train_loader = build_train_loader(cfg, rank(), world_size())
    validation = build_validation(cfg) if cfg.TRAIN.EVAL_PERIOD else None
    plan = build_plan(cfg)
    meters = {name: TrainMeter(device, plan.skips_lost) for name in ("steps", "epoch")}
    assert isinstance(train_loader.sampler, EpochSampler)
    progress = Progress(train_loader.sampler, cfg.SOLVER.MAX_EPOCH)
    states = ProcessStates(device, meters, progress, cfg.RNG_SEED)
    return Trainer(
        model,
        step,
        build_schedule(cfg),
        train_loader,
        validation,
        BadVideos(Path(cfg.OUTPUT_DIR), cfg.DATA.MAX_BAD_FRACTION),
        build_beginning(cfg),
        build_checkpointer(cfg, model, step, progress, states),
        build_train_log(cfg, device, progress, step.update, meters),
        plan,
    )


def _as_it_starts(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Returns the network that the checkpoint to start from was converted to, or ``model``."""
    train = cfg.TRAIN
    files = list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints") if train.AUTO_RESUME else []
    start = weights_file(Path(train.CHECKPOINT_FILE_PATH))
    if not files and start.is_file():
        files = [start]
    for file in reversed(files):
        try:
            weights = read_weights(file, clear_names=train.CHECKPOINT_CLEAR_NAME_PATTERN)
        except CheckpointError:
            continue  # whoever loads it says what is wrong with it
        return as_converted(model, weights)
    return model


def build_step(cfg: CfgNode, model: nn.Module, device: torch.device) -> TrainStep:
    """Returns the training step: optimizer, precision, parts of a batch, mixing, average."""
    precision = train_precision(cfg)
    update = Update(
        model,
        build_optimizer(model, cfg),
        device,
        fp16=precision == "fp16",
        clip_value=cfg.SOLVER.CLIP_GRAD_VAL,
        clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
        skip_nonfinite=cfg.TRAIN.NONFINITE_LOSS == "skip",
    )
    return TrainStep(
        model,
        build_loss(cfg.MODEL.LOSS_FUNC),
        update,
        Transfer(device, build_protocol(cfg)),
        precision,
        parts=cfg.TRAIN.ACCUMULATE_STEPS,
        mixup=build_mixup(cfg),
        average=WeightAverage(model, cfg.EMA.DECAY) if cfg.EMA.ENABLE else None,
    )


def build_validation(cfg: CfgNode) -> Validation:
    """Returns the validation of a run: one view of each file, in the precision of training."""
    return Validation(
        build_val_loader(cfg, rank(), world_size()),
        replace(build_protocol(cfg).one_view(), precision=train_precision(cfg)),
        partial(loss_of_scores, head_act=cfg.MODEL.HEAD_ACT, loss=build_loss(cfg.MODEL.LOSS_FUNC)),
        compiled=cfg.TRAIN.COMPILE,
    )


def build_plan(cfg: CfgNode) -> Plan:
    """Returns what the run does besides its steps."""
    return Plan(
        seed=cfg.RNG_SEED,
        clip_shape=input_shape(cfg),
        batch_size=batch_per_process(cfg, processes_of(cfg)) * cfg.AUG.NUM_SAMPLE,
        validation_period=cfg.TRAIN.EVAL_PERIOD,
        checkpoint_period=cfg.TRAIN.CHECKPOINT_PERIOD,
        precise_bn=cfg.BN.USE_PRECISE_STATS,
        precise_batches=cfg.BN.NUM_BATCHES_PRECISE,
        skips_lost=train_precision(cfg) == "fp16" or cfg.TRAIN.NONFINITE_LOSS == "skip",
    )


def build_beginning(cfg: CfgNode) -> Beginning:
    """Returns where the run begins."""
    train = cfg.TRAIN
    return Beginning(
        auto_resume=train.AUTO_RESUME,
        file=train.CHECKPOINT_FILE_PATH,
        new_run=train.CHECKPOINT_EPOCH_RESET,
        inflate=train.CHECKPOINT_INFLATE,
        clear_names=tuple(train.CHECKPOINT_CLEAR_NAME_PATTERN),
    )


def build_checkpointer(
    cfg: CfgNode, model: nn.Module, step: TrainStep, progress: Progress, states: ProcessStates
) -> Checkpointer:
    """Returns the checkpoints of the run, and who owns what is in them."""
    # In the order in which they load: an average that the file lacks begins with its weights, and
    # random numbers may depend on the progress.
    owners: list[Stateful] = [
        progress,
        ModelState(model),
        *([step.average] if step.average else []),
        OptimizerState(step.update.optimizer),
        ScalerState(step.update.scaler),
        states,
    ]
    spec = model.spec if isinstance(model, Network) else spec_of(cfg)
    facts: dict[str, object] = {
        "cfg": dump(cfg),
        "spec": spec.to_dict(),
        "protocol": to_plain(build_protocol(cfg)),
    }
    if names := data_class_names(cfg):
        facts["class_names"] = names
    return Checkpointer(
        Path(cfg.OUTPUT_DIR) / "checkpoints",
        progress,
        owners,
        facts,
        check_run=lambda path, content: check_resume(path, content, spec, cfg),
        seconds=cfg.TRAIN.CHECKPOINT_SECONDS,
        keep=cfg.TRAIN.KEEP_CHECKPOINTS,
    )


def log_model_info(model: nn.Module, cfg: CfgNode) -> None:
    """Logs parameters and multiply-adds of one training clip."""
    shape = input_shape(cfg)
    cost = count(model, (1, *shape))
    is_named = cfg.MODEL.ARCH in ("2d", "external")
    name = cfg.MODEL.MODEL_NAME if is_named else cfg.MODEL.ARCH
    logger.info(
        "%s: %.3f M parameters, %.3f G multiply-adds for a clip of %s",
        f"Oct-{name} (alpha {cfg.OCTAVE.ALPHA:g})" if cfg.OCTAVE.ENABLE else name,
        cost.params / 1e6,
        cost.macs / 1e9,
        "x".join(map(str, shape)),
    )
