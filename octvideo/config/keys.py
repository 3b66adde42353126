"""Checks of single keys: which values each may have."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.config.datasets import DATASETS
from octvideo.config.scope import FOREIGN_VALUES, NOT_YET
from octvideo.config.values import show


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value of ``key``, and what to set."""

    key: str
    text: str

    def __str__(self) -> str:
        return self.text


CHOICES: dict[str, Collection[Any]] = {
    "BN.NORM_TYPE": ("batchnorm", "sync_batchnorm"),
    "DATA.DECODING_BACKEND": ("pyav", "decord", "torchcodec"),
    "DATA.ENSEMBLE_METHOD": ("sum", "max"),
    "DATA.TEST_INTERPOLATION": ("bilinear", "bicubic"),
    "DATA.TRAIN_PIXELS": ("uint8", "float32"),
    "DATA.VAL_VIEW": ("centre", "random"),
    "DIST_BACKEND": ("nccl", "gloo"),
    "MODEL.ARCH": ("c2d", "i3d", "slow", "slowfast", "slow_c2d", "slow_i3d", "2d"),
    "MODEL.HEAD_ACT": ("softmax", "sigmoid", "none"),
    "MODEL.LOSS_FUNC": ("cross_entropy", "soft_cross_entropy", "bce_logit"),
    "MODEL.MODEL_NAME": ("ResNet", "SlowFast"),
    "NONLOCAL.INSTANTIATION": ("softmax", "dot_product"),
    "OCTAVE.DOWNSAMPLE": ("avg", "max", "strided_conv"),
    "OCTAVE.NONLOCAL_MODE": ("cross", "high"),
    "OCTAVE.PATHS": ("both", "no_h2l", "no_l2h"),
    "RESNET.TRANS_FUNC": ("bottleneck_transform", "basic_transform"),
    "SOLVER.LR_POLICY": ("cosine", "steps_with_relative_lrs"),
    "SOLVER.OPTIMIZING_METHOD": ("sgd", "adam", "adamw"),
    "TEST.CHECKPOINT": ("last", "best"),
    "TEST.CHECKPOINT_TYPE": ("pytorch", "caffe2", "mxnet"),
    "TEST.DATASET": DATASETS,
    "TEST.NUM_SPATIAL_CROPS": (1, 3),
    "TEST.PRECISION": ("fp32", "bf16", "fp16"),
    "TRAIN.CHECKPOINT_TYPE": ("pytorch", "caffe2", "mxnet"),
    "TRAIN.DATASET": DATASETS,
    "TRAIN.NONFINITE_LOSS": ("stop", "skip"),
    "TRAIN.PRECISION": ("fp32", "bf16", "fp16"),
}

# (text, test, keys): every number in the value of a key, lists included, must pass the test.
RANGES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "at least 1",
        lambda x: x >= 1,
        (
            *("NUM_SHARDS", "DIST_TIMEOUT", "LOG_PERIOD", "MODEL.NUM_CLASSES", "SOLVER.MAX_EPOCH"),
            *("TRAIN.BATCH_SIZE", "TRAIN.CHECKPOINT_PERIOD"),
            *("TRAIN.ACCUMULATE_STEPS", "TEST.BATCH_SIZE", "TEST.NUM_TEMPORAL_CLIPS"),
            *("DATA.NUM_FRAMES", "DATA.SAMPLING_RATE", "DATA.TARGET_FPS"),
            *("DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE", "DATA.TRAIN_JITTER_SCALES"),
            *("RESNET.DEPTH", "RESNET.NUM_GROUPS", "RESNET.WIDTH_PER_GROUP", "RESNET.EXPANSION"),
            *("RESNET.SPATIAL_STRIDES", "RESNET.SPATIAL_DILATIONS"),
            *("NONLOCAL.GROUP", "NONLOCAL.POOL", "BN.NUM_BATCHES_PRECISE"),
            *("SLOWFAST.ALPHA", "SLOWFAST.BETA_INV", "SLOWFAST.FUSION_CONV_CHANNEL_RATIO"),
            *("SLOWFAST.FUSION_KERNEL_SZ", "OCTAVE.CHANNEL_DIVISOR"),
            *("AUG.NUM_SAMPLE", "AUG.RE_COUNT"),
        ),
    ),
    (
        "0 or more",
        lambda x: x >= 0,
        (
            *("NUM_GPUS", "SHARD_ID", "RNG_SEED", "TRAIN.KEEP_CHECKPOINTS", "TRAIN.EVAL_PERIOD"),
            *(
                "TRAIN.CHECKPOINT_SECONDS",
                "DATA.DECODE_TIMEOUT",
                "DATA.TRAIN_JITTER_FPS",
                "DATA_LOADER.NUM_WORKERS",
                "MODEL.FC_INIT_STD",
            ),
            *("RESNET.NUM_BLOCK_TEMP_KERNEL", "NONLOCAL.LOCATION", "BN.WEIGHT_DECAY"),
            *("SOLVER.COSINE_END_LR", "SOLVER.WARMUP_START_LR", "SOLVER.WARMUP_EPOCHS"),
            *("SOLVER.WEIGHT_DECAY", "SOLVER.DAMPENING", "SOLVER.LRS", "SOLVER.STEPS"),
            *("AUG.COLOR_JITTER", "MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA"),
            *("DATA.TRAIN_PCA_NOISE", "DATA.TRAIN_PCA_EIGVAL"),
        ),
    ),
    (
        "above 0",
        lambda x: x > 0,
        (
            *("DATA.STD", "DATA.TRAIN_JITTER_SCALES_RELATIVE"),
            *("DATA.TRAIN_JITTER_ASPECT_RELATIVE", "BN.EPSILON", "SOLVER.BASE_LR"),
            *("SOLVER.GAMMA", "SOLVER.CLIP_GRAD_VAL", "SOLVER.CLIP_GRAD_L2NORM"),
        ),
    ),
    (
        "in [0, 1)",
        lambda x: 0 <= x < 1,
        ("MODEL.DROPOUT_RATE", "OCTAVE.ALPHA", "SOLVER.MOMENTUM", "SOLVER.BETAS", "EMA.DECAY"),
    ),
    ("in (0, 1]", lambda x: 0 < x <= 1, ("BN.MOMENTUM", "DATA.IN_VAL_CROP_RATIO")),
    (
        "in [0, 1]",
        lambda x: 0 <= x <= 1,
        (
            "DATA.MAX_BAD_FRACTION",
            "AUG.RE_PROB",
            "MIXUP.PROB",
            "MIXUP.SWITCH_PROB",
            "MIXUP.LABEL_SMOOTH_VALUE",
        ),
    ),
    ("at least 1, or -1", lambda x: x >= 1 or x == -1, ("TEST.NUM_ENSEMBLE_VIEWS",)),
    ("among 2, 3, 4, 5", lambda x: x in (2, 3, 4, 5), ("OCTAVE.STAGES",)),
    ("3, as videos are RGB", lambda x: x == 3, ("DATA.INPUT_CHANNEL_NUM",)),
)


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    return reduce(getitem, key.split("."), cfg)


def _leaves(value: Any) -> list[Any]:
    """The entries of nested lists in one list; a scalar is a list of one."""
    if not isinstance(value, (list, tuple)):
        return [value]
    return [leaf for entry in value for leaf in _leaves(entry)]


def choices(cfg: CfgNode) -> Iterator[Problem]:
    """Values that are not among the choices of their key, or that do not work yet."""
    for key, options in CHOICES.items():
        value = value_of(cfg, key)
        if value in options or (key == "MODEL.MODEL_NAME" and cfg.MODEL.ARCH == "2d"):
            continue  # the names of image networks are those of list_models()
        known = ", ".join(map(str, NOT_YET.get(key, (options,))[0]))
        if str(value).lower() in FOREIGN_VALUES.get(key, ()):
            yield Problem(key, f"{key} {value!r} is outside octvideo's scope: set one of {known}")
        else:
            yield Problem(key, f"{key} is {value!r}: set one of {known}")
    for key, (allowed, feature) in NOT_YET.items():
        value = value_of(cfg, key)
        if value not in CHOICES.get(key, (value,)):
            continue  # reported above
        if value not in allowed:
            advice = " or ".join(map(str, allowed))
            yield Problem(
                key, f"{key} is {show(value)}: {feature} is not supported yet; set {key} {advice}"
            )


def ranges(cfg: CfgNode) -> Iterator[Problem]:
    """Numbers outside the range of their key."""
    for text, passes, keys in RANGES:
        for key in keys:
            value = value_of(cfg, key)
            if not all(passes(leaf) for leaf in _leaves(value) if leaf is not None):
                each = "every entry of " if isinstance(value, (list, tuple)) else ""
                yield Problem(key, f"{each}{key} must be {text}, got {show(value)}")
