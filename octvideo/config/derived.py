"""Batch sizes, learning rates and the precision that follow from a configuration."""

import math
from dataclasses import dataclass

from fvcore.common.config import CfgNode

from octvideo.config.datasets import DATASETS

REFERENCE_LR = 0.1  # of SGD, for DataSet.reference_batch samples a step


@dataclass(frozen=True)
class Processes:
    """The processes of a run: ``per_node`` on each of ``nodes``.

    ``launcher`` is torchrun or SLURM if that has started them, "" if octvideo starts them itself.
    """

    per_node: int
    nodes: int = 1
    launcher: str = ""

    @classmethod
    def of(cls, cfg: CfgNode) -> "Processes":
        """Returns those that a configuration asks for: one for each GPU, or one on the CPU."""
        return cls(max(1, cfg.NUM_GPUS), int(cfg.NUM_SHARDS))


def batch_per_process(cfg: CfgNode, processes: Processes, split: str = "train") -> int:
    """Returns the clips of one process in a step ("train") or in a forward pass ("test")."""
    batch = {"train": cfg.TRAIN.BATCH_SIZE, "test": cfg.TEST.BATCH_SIZE}[split]
    return int(batch // processes.per_node)


def global_batch_size(cfg: CfgNode, processes: Processes) -> int:
    """Returns the clips of an optimiser step over all nodes; TRAIN.BATCH_SIZE is for one node."""
    return int(cfg.TRAIN.BATCH_SIZE * processes.nodes)


def lr_scale(cfg: CfgNode, processes: Processes) -> int:
    """Returns the factor of BASE_LR, WARMUP_START_LR and COSINE_END_LR, as in PySlowFast."""
    return processes.nodes if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1


def effective_base_lr(cfg: CfgNode, processes: Processes) -> float:
    """Returns the base learning rate that the run uses."""
    return float(cfg.SOLVER.BASE_LR * lr_scale(cfg, processes))


def linear_rule_lr(cfg: CfgNode, batch: int) -> float:
    """Returns the base learning rate of the linear rule for steps of ``batch`` clips."""
    return REFERENCE_LR * batch / DATASETS[cfg.TRAIN.DATASET].reference_batch


def clip_counts_of_test(cfg: CfgNode) -> list[int]:
    """Returns the numbers of clips that are tested, one after another (PySlowFast's lists)."""
    if counts := list(cfg.TEST.NUM_TEMPORAL_CLIPS):
        return counts
    count = int(cfg.TEST.NUM_ENSEMBLE_VIEWS)
    return [1, 3, 5, 7, 10] if count == -1 else [count]


def short_side_of_test(cfg: CfgNode) -> int:
    """Returns the short side of a video in a test.

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
    """Returns TRAIN.PRECISION; PySlowFast's TRAIN.MIXED_PRECISION stands for fp16."""
    return "fp16" if cfg.TRAIN.MIXED_PRECISION else str(cfg.TRAIN.PRECISION)


def describe_scaling(cfg: CfgNode, processes: Processes) -> tuple[str, str | None]:
    """Returns a line for the log, and a warning where SGD's rate breaks the linear rule."""
    batch, lr = global_batch_size(cfg, processes), effective_base_lr(cfg, processes)
    rule = linear_rule_lr(cfg, batch)
    kind = DATASETS[cfg.TRAIN.DATASET]
    copies = f" in {cfg.AUG.NUM_SAMPLE} copies" if cfg.AUG.NUM_SAMPLE > 1 else ""
    line = (
        f"global batch {batch} ({processes.nodes} x {processes.per_node} processes with "
        f"{batch_per_process(cfg, processes)} {kind.samples} each{copies}), base LR {lr:g}"
    )
    if cfg.SOLVER.OPTIMIZING_METHOD != "sgd" or math.isclose(lr, rule, rel_tol=1e-6):
        return line, None
    if cfg.TRAIN.CHECKPOINT_FILE_PATH and lr < rule:  # usual where weights are fine-tuned
        return f"{line} (from scratch the linear rule would give {rule:g})", None
    warning = (
        f"base LR {lr:g} differs from the linear rule ({REFERENCE_LR:g} for {kind.reference_batch} "
        f"{kind.samples}), which gives {rule:g} for a global batch of {batch}: "
        f"set SOLVER.BASE_LR {rule / lr_scale(cfg, processes):g} to follow it"
    )
    return line, warning
