"""Checks of a whole configuration: single keys, and combinations that cannot work."""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from fvcore.common.config import CfgNode

from octvideo.config.datasets import DATASETS, DataSet
from octvideo.config.derived import Processes, batch_per_process
from octvideo.config.external import EXTERNAL_NAMES, takes_images
from octvideo.config.factorised import check_factorised
from octvideo.config.keys import KEYS, value_of
from octvideo.config.notation import parse_rand_augment
from octvideo.config.pyslowfast import IMAGE_DEPTHS, WITHOUT_POOL
from octvideo.config.schema import Choices, Problem, Range
from octvideo.config.unsupported import FOREIGN_VALUES, NOT_YET
from octvideo.config.values import show
from octvideo.utils.errors import UserError


class ConfigError(UserError):
    """A configuration that cannot be run; ``problems`` has one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0])
        else:
            lines = "\n".join(f"  {i}. {text}" for i, text in enumerate(self.problems, 1))
            super().__init__(f"{len(self.problems)} problems in the configuration:\n{lines}")


# Stages x pathways; a single-pathway model takes the first entry of each stage.
_STAGE_LISTS = (
    *("RESNET.NUM_BLOCK_TEMP_KERNEL", "RESNET.SPATIAL_STRIDES", "RESNET.SPATIAL_DILATIONS"),
    *("NONLOCAL.LOCATION", "NONLOCAL.GROUP", "NONLOCAL.POOL"),
)


def validate(cfg: CfgNode, launched: Processes | None = None) -> list[Problem]:
    """Returns everything that makes a configuration impossible; [] where it can be run.

    ``launched``: the processes that torchrun or SLURM has started, if one of them has. The machine
    is left out (see ``check_machine``), so that a file for eight GPUs can be read anywhere. The
    types are those of the defaults: ``load_cfg`` sees to that.
    """
    checks = (
        *(_choices, _ranges, _clips, _pictures, _pathways, _network, check_factorised, _octave),
        *(_schedule, _augmentation, _mixing, _precision),
    )
    problems = [problem for check in checks for problem in check(cfg)]
    return problems + list(_batches(cfg, launched or Processes.of(cfg)))


def check_machine(cfg: CfgNode, num_cuda_devices: int, processes: Processes) -> None:
    """Checks a configuration against the machine that is to run it.

    Raises:
        ConfigError: it asks for more GPUs than are there.
    """
    if not cfg.NUM_GPUS:
        return
    launcher, needed = processes.launcher, processes.per_node
    # SLURM may show each process the one GPU that is its own.
    if needed <= num_cuda_devices or (num_cuda_devices == 1 and launcher == "SLURM"):
        return
    asked = f"NUM_GPUS is {cfg.NUM_GPUS}"
    advice = f"set NUM_GPUS {1 if num_cuda_devices else 0}"
    if launcher:
        asked = f"{launcher} started {needed} processes on each node"
        advice = "start one process a GPU, or set NUM_GPUS 0 to run on the CPU"
    if not num_cuda_devices:
        advice = "set NUM_GPUS 0 to run on the CPU"
    found = {0: "no CUDA device was found", 1: "the machine has 1 CUDA device"}
    there = found.get(num_cuda_devices, f"the machine has {num_cuda_devices} CUDA devices")
    raise ConfigError([f"{asked} but {there}: {advice}"])


def _allowed(key: str) -> Collection[object]:
    row = KEYS[key].allowed
    assert isinstance(row, Choices)
    return row.options


def _choices(cfg: CfgNode) -> Iterator[Problem]:
    """Values that are not among the choices of their key, or that are not supported yet."""
    for key, row in KEYS.items():
        if not isinstance(row.allowed, Choices):
            continue
        value, options = value_of(cfg, key), row.allowed.options
        if row.allowed.when and not value_of(cfg, row.allowed.when):
            continue
        is_name = key == "MODEL.MODEL_NAME" and cfg.MODEL.ARCH in ("2d", "external")
        if value in options or is_name:
            continue  # one of list_models(), or of another project
        known = ", ".join(map(str, NOT_YET.get(key, (options,))[0]))
        if str(value).lower() in FOREIGN_VALUES.get(key, ()):
            yield Problem(key, f"{key} {value!r} is outside octvideo's scope: set one of {known}")
        else:
            yield Problem(key, f"{key} is {value!r}: set one of {known}")
    for key, (allowed, feature) in NOT_YET.items():
        value = value_of(cfg, key)
        if value not in allowed:
            advice = " or ".join(map(str, allowed))
            yield Problem(
                key, f"{key} is {show(value)}: {feature} is not supported yet; set {key} {advice}"
            )


def _ranges(cfg: CfgNode) -> Iterator[Problem]:
    """Numbers outside the range of their key."""
    for key, row in KEYS.items():
        value = value_of(cfg, key)
        if isinstance(row.allowed, Range) and (problem := row.allowed.problem(value)):
            each = "every entry of " if isinstance(value, (list, tuple)) else ""
            yield Problem(key, f"{each}{key} {problem}")


def _batches(cfg: CfgNode, processes: Processes) -> Iterator[Problem]:
    count, parts = processes.per_node, cfg.TRAIN.ACCUMULATE_STEPS
    sharers = f"NUM_GPUS {cfg.NUM_GPUS}"
    if processes.launcher:
        sharers = f"the {count} processes that {processes.launcher} started on each node"
    for section in ("TRAIN", "TEST"):
        if cfg[section].ENABLE and cfg[section].BATCH_SIZE % count:
            yield Problem(
                f"{section}.BATCH_SIZE",
                f"{section}.BATCH_SIZE {cfg[section].BATCH_SIZE} cannot be shared among "
                f"{sharers}: set a multiple of {count}, or another number of processes",
            )
    clips = batch_per_process(cfg, processes)
    if cfg.TRAIN.ENABLE and parts > 0 and clips % parts:
        yield Problem(
            "TRAIN.ACCUMULATE_STEPS",
            f"TRAIN.ACCUMULATE_STEPS {parts} does not divide the {clips} clips "
            "of a process (TRAIN.BATCH_SIZE / NUM_GPUS): set a divisor of them",
        )
    if not cfg.SHARD_ID < cfg.NUM_SHARDS and not processes.launcher:
        yield Problem(
            "SHARD_ID",
            f"SHARD_ID {cfg.SHARD_ID} must be below NUM_SHARDS {cfg.NUM_SHARDS}: "
            "nodes are counted from 0",
        )
    if cfg.MIXUP.ENABLE and cfg.TRAIN.ENABLE and clips * cfg.AUG.NUM_SAMPLE == 1:
        yield Problem(
            "TRAIN.BATCH_SIZE",
            "TRAIN.BATCH_SIZE gives each process one clip, but MIXUP.ENABLE mixes two: "
            f"set TRAIN.BATCH_SIZE {2 * count} or more",
        )


def _clips(cfg: CfgNode) -> Iterator[Problem]:
    data = cfg.DATA
    if not data.PATH_LABEL_SEPARATOR:
        yield Problem(
            "DATA.PATH_LABEL_SEPARATOR", "DATA.PATH_LABEL_SEPARATOR is empty: set ' ' or ','"
        )
    for name in ("MEAN", "STD"):
        if len(data[name]) != 3:
            yield Problem(
                f"DATA.{name}", f"DATA.{name} needs one value each for R, G, B, got {data[name]}"
            )
    yield from _pair("DATA.TRAIN_JITTER_SCALES", data.TRAIN_JITTER_SCALES)
    relative = ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE")
    ranges = [value_of(cfg, key) for key in relative]
    for key, limits in zip(relative, ranges, strict=True):
        if limits:
            yield from _pair(key, limits)
        elif any(ranges):
            other = relative[1 - relative.index(key)]
            yield Problem(key, f"{key} is empty but {other} is not: set both or neither")
    smallest = min(data.TRAIN_JITTER_SCALES, default=0)
    of_clips = cfg.TRAIN.ENABLE and not takes_images(cfg)
    if of_clips and not any(ranges) and smallest < data.TRAIN_CROP_SIZE:
        yield Problem(
            "DATA.TRAIN_JITTER_SCALES",
            f"DATA.TRAIN_JITTER_SCALES {data.TRAIN_JITTER_SCALES} allows frames smaller than "
            f"DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE}: raise the scales or lower the crop",
        )


def _pictures(cfg: CfgNode) -> Iterator[Problem]:
    for key in ("TRAIN.DATASET", "TEST.DATASET"):
        enabled, name = cfg[key.partition(".")[0]].ENABLE, value_of(cfg, key)
        kind = DATASETS.get(name, DataSet())
        if enabled and kind.arch == "2d" and not takes_images(cfg):
            frames = " of DATA.NUM_FRAMES above 1" if cfg.MODEL.ARCH == "external" else ""
            yield Problem(
                key,
                f"{key} {name} is of {kind.samples}, but MODEL.ARCH {cfg.MODEL.ARCH}{frames} takes "
                f"videos: set {key} kinetics, or MODEL.ARCH {kind.arch}",
            )
    values, vectors = cfg.DATA.TRAIN_PCA_EIGVAL, cfg.DATA.TRAIN_PCA_EIGVEC
    if len(values) != 3:
        yield Problem(
            "DATA.TRAIN_PCA_EIGVAL", f"DATA.TRAIN_PCA_EIGVAL needs three values, got {values}"
        )
    if [len(row) for row in vectors] != [3, 3, 3]:
        yield Problem(
            "DATA.TRAIN_PCA_EIGVEC",
            f"DATA.TRAIN_PCA_EIGVEC needs three rows of three values, got {show(vectors)}",
        )


def _pair(key: str, limits: Sequence[float]) -> Iterator[Problem]:
    if len(limits) != 2 or limits[0] > limits[1]:
        yield Problem(key, f"{key} must be [lowest, highest], got {show(limits)}")


def _pathways(cfg: CfgNode) -> Iterator[Problem]:
    arch, number = cfg.MODEL.ARCH, _num_pathways(cfg)
    if cfg.MODEL.MODEL_NAME == "SlowFast" and arch in _allowed("MODEL.ARCH") and number == 1:
        yield Problem(
            "MODEL.MODEL_NAME",
            f"MODEL.MODEL_NAME SlowFast has two pathways, but MODEL.ARCH {arch} has one: "
            f"set MODEL.MODEL_NAME {'X3D' if arch == 'x3d' else 'ResNet'}",
        )
    if arch == "external" and not re.search(r"[/:]", cfg.MODEL.MODEL_NAME):
        yield Problem(
            "MODEL.MODEL_NAME",
            f"MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME} is no network of MODEL.ARCH external: set "
            f"{EXTERNAL_NAMES}",
        )
    if cfg.MODEL.OPTIONS and arch != "external":
        yield Problem(
            "MODEL.OPTIONS",
            f"MODEL.OPTIONS {show(cfg.MODEL.OPTIONS)} are for MODEL.ARCH external: remove them",
        )
    if cfg.MODEL.MODEL_NAME == "ResNet" and number == 2:
        yield Problem(
            "MODEL.MODEL_NAME",
            "MODEL.MODEL_NAME ResNet has one pathway, but MODEL.ARCH slowfast, its default as in "
            "PySlowFast, has two: set MODEL.ARCH c2d, i3d, slow, slow_c2d, slow_i3d, r2plus1d or "
            "csn, or MODEL.MODEL_NAME SlowFast",
        )
    if len(cfg.DATA.INPUT_CHANNEL_NUM) < number:
        yield Problem(
            "DATA.INPUT_CHANNEL_NUM",
            f"DATA.INPUT_CHANNEL_NUM {cfg.DATA.INPUT_CHANNEL_NUM} needs an entry for each of the "
            f"{number} pathways: set {[3] * number}",
        )
    for key in _STAGE_LISTS:
        stages = value_of(cfg, key)
        # One value for two pathways is none of PySlowFast's, and clear but for non-local blocks.
        few = 1 if key != "NONLOCAL.LOCATION" or not any(map(any, stages)) else number
        if len(stages) != 4 or any(len(pathways) < few for pathways in stages):
            yield Problem(
                key,
                f"{key} needs four stages (res2..res5) with {number} value"
                f"{'s' if number > 1 else ''} each (one a pathway), got {show(stages)}",
            )
    if any(len(pool) != 3 for stage in cfg.NONLOCAL.POOL for pool in stage):
        yield Problem("NONLOCAL.POOL", "NONLOCAL.POOL needs three values (T, H, W) for each pool")


def _network(cfg: CfgNode) -> Iterator[Problem]:
    arch, frames = cfg.MODEL.ARCH, cfg.DATA.NUM_FRAMES
    if arch in WITHOUT_POOL and frames == 1:
        yield Problem(
            "DATA.NUM_FRAMES",
            f"DATA.NUM_FRAMES is 1, but MODEL.ARCH {arch} halves the frames after res2: "
            f"set 2 or more, or MODEL.ARCH {WITHOUT_POOL[arch]}",
        )
    if arch == "2d" and frames != 1:
        yield Problem(
            "DATA.NUM_FRAMES",
            f"DATA.NUM_FRAMES is {frames}, but MODEL.ARCH 2d takes images: set DATA.NUM_FRAMES 1",
        )
    if arch == "2d" and cfg.MODEL.MODEL_NAME in _allowed("MODEL.MODEL_NAME"):
        yield Problem(
            "MODEL.MODEL_NAME",
            f"MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME} is for videos: with MODEL.ARCH 2d set the "
            "name of an image network (octvideo.list_models() has all); PySlowFast's ResNet is "
            f"here of the depths {', '.join(map(str, IMAGE_DEPTHS))}, as resnet50_v1b",
        )
    if arch == "slowfast" and frames < cfg.SLOWFAST.ALPHA:
        yield Problem(
            "DATA.NUM_FRAMES",
            f"DATA.NUM_FRAMES {frames} is below SLOWFAST.ALPHA {cfg.SLOWFAST.ALPHA}: "
            "no frame is left for the slow pathway",
        )
    elif arch == "slowfast" and frames % cfg.SLOWFAST.ALPHA:
        yield Problem(
            "DATA.NUM_FRAMES",
            f"DATA.NUM_FRAMES {frames} is not a multiple of SLOWFAST.ALPHA {cfg.SLOWFAST.ALPHA}, "
            f"the frames of the fast pathway for one of the slow: set, for example, "
            f"DATA.NUM_FRAMES {frames - frames % cfg.SLOWFAST.ALPHA}",
        )
    if arch == "slowfast" and cfg.TRAIN.CHECKPOINT_INFLATE:
        yield Problem(
            "TRAIN.CHECKPOINT_INFLATE",
            "TRAIN.CHECKPOINT_INFLATE is True, but no 2D network has the shapes of a SlowFast "
            "network: set it False; TRAIN.CHECKPOINT_FILE_PATH takes a SlowFast checkpoint",
        )
    strides = cfg.RESNET.SPATIAL_STRIDES
    if arch == "slowfast" and any(len(set(stage)) > 1 for stage in strides):
        yield Problem(
            "RESNET.SPATIAL_STRIDES",
            f"RESNET.SPATIAL_STRIDES {strides} differ between the pathways, whose maps must have "
            "one size to be fused: set the same for both",
        )
    if cfg.RESNET.TRANS_FUNC == "basic_transform" and cfg.RESNET.NUM_GROUPS > 1:
        yield Problem(
            "RESNET.NUM_GROUPS",
            f"RESNET.NUM_GROUPS {cfg.RESNET.NUM_GROUPS} needs the bottleneck: basic_transform "
            "has no groups; set RESNET.NUM_GROUPS 1",
        )


def _augmentation(cfg: CfgNode) -> Iterator[Problem]:
    aug = cfg.AUG
    if not aug.ENABLE:
        return
    try:
        if aug.AA_TYPE:
            parse_rand_augment(aug.AA_TYPE)
    except ValueError as error:
        yield Problem("AUG.AA_TYPE", f"AUG.AA_TYPE {aug.AA_TYPE!r} is not RandAugment: {error}")


def _mixing(cfg: CfgNode) -> Iterator[Problem]:
    if not (cfg.MIXUP.ENABLE and cfg.TRAIN.ENABLE):
        return
    if cfg.MODEL.LOSS_FUNC == "cross_entropy":
        yield Problem(
            "MODEL.LOSS_FUNC",
            "MODEL.LOSS_FUNC cross_entropy is for one label a clip, but MIXUP.ENABLE mixes them: "
            "set MODEL.LOSS_FUNC soft_cross_entropy",
        )
    if cfg.MODEL.NUM_CLASSES < 2:
        yield Problem("MODEL.NUM_CLASSES", "MODEL.NUM_CLASSES 1 leaves MIXUP nothing to mix: set 2")


def _precision(cfg: CfgNode) -> Iterator[Problem]:
    if cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.PRECISION == "bf16":
        yield Problem(
            "TRAIN.MIXED_PRECISION",
            "TRAIN.MIXED_PRECISION True is PySlowFast's name for TRAIN.PRECISION fp16, but "
            "TRAIN.PRECISION is bf16: set TRAIN.MIXED_PRECISION False, or TRAIN.PRECISION fp16",
        )


def _num_pathways(cfg: CfgNode) -> int:
    return 2 if cfg.MODEL.ARCH == "slowfast" else 1


def _octave(cfg: CfgNode) -> Iterator[Problem]:
    if not cfg.OCTAVE.ENABLE:
        return
    for key in ("OCTAVE.STAGES", "OCTAVE.PATHWAYS"):
        value = value_of(cfg, key)
        if not value or len(set(value)) < len(value):
            yield Problem(
                key,
                f"{key} is {value}: name at least one and none twice, or set OCTAVE.ENABLE False",
            )
    pathways = range(_num_pathways(cfg))
    if any(pathway not in pathways for pathway in cfg.OCTAVE.PATHWAYS):
        yield Problem(
            "OCTAVE.PATHWAYS",
            f"OCTAVE.PATHWAYS {cfg.OCTAVE.PATHWAYS} names a pathway that MODEL.ARCH "
            f"{cfg.MODEL.ARCH} does not have: set {list(pathways)}",
        )


def _schedule(cfg: CfgNode) -> Iterator[Problem]:
    solver = cfg.SOLVER
    if solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        yield Problem(
            "SOLVER.WARMUP_EPOCHS",
            f"SOLVER.WARMUP_EPOCHS {solver.WARMUP_EPOCHS:g} must be below SOLVER.MAX_EPOCH "
            f"{solver.MAX_EPOCH}: lower the first or raise the second",
        )
    if len(solver.BETAS) != 2:
        yield Problem("SOLVER.BETAS", f"SOLVER.BETAS needs two values, got {solver.BETAS}")
    nesterov = solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV
    if nesterov and (solver.MOMENTUM == 0 or solver.DAMPENING != 0):
        yield Problem(
            "SOLVER.NESTEROV",
            "SOLVER.NESTEROV True needs SOLVER.MOMENTUM above 0 and SOLVER.DAMPENING 0, got "
            f"{solver.MOMENTUM:g} and {solver.DAMPENING:g}: set SOLVER.NESTEROV False",
        )
    if solver.LR_POLICY != "steps_with_relative_lrs":
        return
    steps, lrs = solver.STEPS, solver.LRS
    if not steps or steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
        yield Problem(
            "SOLVER.STEPS",
            f"SOLVER.STEPS must begin with 0 and increase, got {show(steps)}: set, for example, "
            "SOLVER.STEPS [0, 44, 88] with SOLVER.LRS [1, 0.1, 0.01]",
        )
    if len(lrs) < len(steps):  # more are harmless, and published files have them: see remarks
        yield Problem(
            "SOLVER.LRS",
            f"SOLVER.LRS has {len(lrs)} rates for the {len(steps)} entries of SOLVER.STEPS: "
            "set one for each",
        )
