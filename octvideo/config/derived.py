"""Batch sizes, learning rates and the precision that follow from a configuration."""

import math

from fvcore.common.config import CfgNode

from octvideo.config.datasets import DATASETS
from octvideo.distributed.launcher_env import read_launcher_env

REFERENCE_LR = 0.1  # of SGD, for DataSet.reference_batch samples a step


def processes_per_node(cfg: CfgNode) -> int:
    """As many as torchrun or SLURM has started; else one a GPU, or one on the CPU."""
    world = read_launcher_env()
    return world.local_world_size if world else max(1, cfg.NUM_GPUS)


def num_nodes(cfg: CfgNode) -> int:
    """Those that torchrun or SLURM started processes on; else NUM_SHARDS."""
    world = read_launcher_env()
    return world.nodes if world else int(cfg.NUM_SHARDS)


def batch_per_process(cfg: CfgNode, split: str = "train") -> int:
    """Clips that one process handles in a step ("train") or in a forward pass ("test")."""
    batch = {"train": cfg.TRAIN.BATCH_SIZE, "test": cfg.TEST.BATCH_SIZE}[split]
    return batch // processes_per_node(cfg)


def global_batch_size(cfg: CfgNode) -> int:
    """Clips of one optimiser step over all nodes; TRAIN.BATCH_SIZE is the batch of one."""
    return cfg.TRAIN.BATCH_SIZE * num_nodes(cfg)


def lr_scale(cfg: CfgNode) -> int:
    """Factor of BASE_LR, WARMUP_START_LR and COSINE_END_LR (PySlowFast scales all three)."""
    return num_nodes(cfg) if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1


def effective_base_lr(cfg: CfgNode) -> float:
    """The base learning rate that the run uses."""
    return cfg.SOLVER.BASE_LR * lr_scale(cfg)


def linear_rule_lr(cfg: CfgNode, batch: int | None = None) -> float:
    """Returns the base learning rate of the linear rule: REFERENCE_LR, in proportion to the batch.

    ``batch``: clips of a step; None is that of ``cfg``.
    """
    batch = global_batch_size(cfg) if batch is None else batch
    return REFERENCE_LR * batch / DATASETS[cfg.TRAIN.DATASET].reference_batch


def clip_counts_of_test(cfg: CfgNode) -> list[int]:
    """The numbers of clips of a video that are tested, one after another (PySlowFast's lists)."""
    if counts := list(cfg.TEST.NUM_TEMPORAL_CLIPS):
        return counts
    count = int(cfg.TEST.NUM_ENSEMBLE_VIEWS)
    return [1, 3, 5, 7, 10] if count == -1 else [count]


def short_side_of_test(cfg: CfgNode) -> int:
    """Short side of a video in a test: of the crops, or, for one crop, what training starts from.

    PySlowFast resizes to TRAIN_JITTER_SCALES[0] where TEST.NUM_SPATIAL_CROPS is 1. A crop that
    does not fit into that, which breaks there, is resized to instead.
    """
    crop = int(cfg.DATA.TEST_CROP_SIZE)
    return max(cfg.DATA.TRAIN_JITTER_SCALES[0], crop) if cfg.TEST.NUM_SPATIAL_CROPS == 1 else crop


def input_shape(cfg: CfgNode) -> tuple[int, ...]:
    """Returns the shape (C, T, S, S) of a training clip; an image is a clip of one frame."""
    side = cfg.DATA.TRAIN_CROP_SIZE
    return (cfg.DATA.INPUT_CHANNEL_NUM[0], cfg.DATA.NUM_FRAMES, side, side)


def train_precision(cfg: CfgNode) -> str:
    """TRAIN.PRECISION; PySlowFast's TRAIN.MIXED_PRECISION stands for fp16."""
    return "fp16" if cfg.TRAIN.MIXED_PRECISION else str(cfg.TRAIN.PRECISION)


def describe_scaling(cfg: CfgNode) -> tuple[str, str | None]:
    """A line for the log, and a warning where SGD's rate is not that of the linear rule."""
    batch, lr, rule = global_batch_size(cfg), effective_base_lr(cfg), linear_rule_lr(cfg)
    kind = DATASETS[cfg.TRAIN.DATASET]
    copies = f" in {cfg.AUG.NUM_SAMPLE} copies" if cfg.AUG.NUM_SAMPLE > 1 else ""
    line = (
        f"global batch {batch} ({num_nodes(cfg)} x {processes_per_node(cfg)} processes with "
        f"{batch_per_process(cfg)} {kind.samples} each{copies}), base LR {lr:g}"
    )
    if cfg.SOLVER.OPTIMIZING_METHOD != "sgd" or math.isclose(lr, rule, rel_tol=1e-6):
        return line, None
    if cfg.TRAIN.CHECKPOINT_FILE_PATH and lr < rule:  # usual where weights are fine-tuned
        return f"{line} (from scratch the linear rule would give {rule:g})", None
    warning = (
        f"base LR {lr:g} differs from the linear rule ({REFERENCE_LR:g} for {kind.reference_batch} "
        f"{kind.samples}), which gives {rule:g} for a global batch of {batch}: "
        f"set SOLVER.BASE_LR {rule / lr_scale(cfg):g} to follow it"
    )
    return line, warning
