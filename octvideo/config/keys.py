"""The table of all keys: one row each with default, help, allowed values and effect on resuming.

Names, meanings and defaults are those of PySlowFast, so that its YAML files carry over; OCTAVE, EMA
and the rows marked ``ours`` are new. ``unsupported.py`` lists what octvideo does not have of
PySlowFast's. docs/CONFIG.md is printed from this table (``octvideo config --keys``).
"""

from copy import deepcopy
from functools import reduce
from operator import getitem
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.config.datasets import DATASETS
from octvideo.config.schema import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    PROBABILITY,
    SHARE,
    Choices,
    Key,
    Range,
    Resume,
    one_of,
)

FREE, WARNED, REFUSED = Resume.FREE, Resume.WARNED, Resume.REFUSED
_DATA_SET = Choices(DATASETS)
_PRECISION = one_of("fp32", "bf16", "fp16")
_FORMAT = one_of("pytorch", "caffe2", "mxnet")


# fmt: off
_TOP = {
    "NUM_GPUS": Key(1, "GPUs of one node, one process each; 0: CPU", AT_LEAST_0, WARNED),
    "NUM_SHARDS": Key(1, "nodes; torchrun and SLURM say it themselves", AT_LEAST_1, WARNED),
    "SHARD_ID": Key(0, "the number of this node, from 0", AT_LEAST_0),
    "OUTPUT_DIR": Key(".", "folder for checkpoints, logs and results"),
    "RNG_SEED": Key(1, "seed of weights, order and augmentation", AT_LEAST_0, WARNED),
    "LOG_PERIOD": Key(10, "optimiser steps between two log lines", AT_LEAST_1),
    "JSON_STATS_STEPS": Key(True,
        "write steps to json_stats.log, not only epochs as PySlowFast does", ours=True),
    "LOG_MODEL_INFO": Key(True, "log parameters and multiply-adds at the start"),
    "DIST_BACKEND": Key("nccl", "communication of the processes; gloo on a CPU",
        one_of("nccl", "gloo")),
    "DIST_TIMEOUT": Key(600, "seconds to wait for another process", AT_LEAST_1, ours=True),
    "CUDNN_BENCHMARK": Key(True, "let cuDNN time its algorithms once for each size", ours=True),
    "ALLOW_TF32": Key(True, "let GPUs multiply fp32 numbers with a 10-bit mantissa", ours=True),
}
_TRAIN = {
    "ENABLE": Key(True, "train"),
    "DATASET": Key("kinetics", "kinetics (videos) or imagenet (images)", _DATA_SET),
    "BATCH_SIZE": Key(64, "clips of an optimiser step on one node", AT_LEAST_1, WARNED),
    "EVAL_PERIOD": Key(10, "epochs between two validations; 0: none", AT_LEAST_0),
    "CHECKPOINT_PERIOD": Key(10, "epochs between two checkpoints", AT_LEAST_1),
    "CHECKPOINT_SECONDS": Key(1800.0, "seconds between two checkpoints within an epoch; 0: none",
        AT_LEAST_0, ours=True),
    "KEEP_CHECKPOINTS": Key(0, "epoch checkpoints to keep, besides the best; 0: all", AT_LEAST_0,
        ours=True),
    "AUTO_RESUME": Key(True, "resume from the newest checkpoint in OUTPUT_DIR"),
    "CHECKPOINT_FILE_PATH": Key("",
        "weights that a new run starts from: a file, an address or a zoo name"),
    "CHECKPOINT_TYPE": Key("pytorch", "ignored: the format is recognised from the file", _FORMAT),
    "CHECKPOINT_INFLATE": Key(False, "inflate that file, of a 2D network, in time"),
    "CHECKPOINT_EPOCH_RESET": Key(False,
        "start a new run from a PySlowFast checkpoint instead of continuing it"),
    "CHECKPOINT_CLEAR_NAME_PATTERN": Key((), "texts to remove from its parameter names", entry=str),
    "MIXED_PRECISION": Key(False, "PySlowFast's name for PRECISION fp16", None, WARNED),
    "NONFINITE_LOSS": Key("stop",
        "after a loss that is not finite: stop, or skip the step (3 in a row: stop)",
        one_of("stop", "skip"), ours=True),
    "PRECISION": Key("fp32", "fp32, or autocast to bf16 or fp16", _PRECISION, WARNED, ours=True),
    "ACCUMULATE_STEPS": Key(1, "parts in which a batch is computed, one after another", AT_LEAST_1,
        ours=True),
    "COMPILE": Key(False, "use torch.compile", ours=True),
}
_TEST = {
    "ENABLE": Key(True, "test"),
    "DATASET": Key("kinetics", "kinetics (videos) or imagenet (images)", _DATA_SET),
    "BATCH_SIZE": Key(8, "clips of a forward pass on one node", AT_LEAST_1),
    "CHECKPOINT_FILE_PATH": Key("", "weights to test; empty: the newest in OUTPUT_DIR"),
    "CHECKPOINT_TYPE": Key("pytorch", "ignored: the format is recognised from the file", _FORMAT),
    "CHECKPOINT": Key("last",
        "checkpoint of OUTPUT_DIR to test: the last, or the best in validation",
        one_of("last", "best"), ours=True),
    "NUM_ENSEMBLE_VIEWS": Key(10, "clips in time of each video; -1: tests with 1, 3, 5, 7 and 10",
        Range("at least 1, or -1", lambda x: x >= 1 or x == -1)),
    "NUM_TEMPORAL_CLIPS": Key([], "a test for each of these numbers of clips, instead", AT_LEAST_1,
        entry=int),
    "NUM_SPATIAL_CROPS": Key(3,
        "crops of each clip; 1: the centre of frames whose short side is "
        "DATA.TRAIN_JITTER_SCALES[0]", one_of(1, 3)),
    "SAVE_RESULTS_PATH": Key("", "file for the table of scores, under OUTPUT_DIR"),
    "PRECISION": Key("fp32", "fp32, or autocast to bf16 or fp16", _PRECISION, ours=True),
    "COMPILE": Key(False, "use torch.compile", ours=True),
}
_DATA = {
    "PATH_TO_DATA_DIR": Key("",
        "folder of train.csv, val.csv and test.csv, or of images in train/ and val/"),
    "PATH_PREFIX": Key("", "put before every path in the lists"),
    "PATH_LABEL_SEPARATOR": Key(" ", "text between path and label; the last one of a line counts"),
    "NUM_FRAMES": Key(8, "frames of a clip", AT_LEAST_1),
    "SAMPLING_RATE": Key(8, "frames from one of a clip to the next", AT_LEAST_1),
    "TARGET_FPS": Key(30, "frame rate that SAMPLING_RATE refers to", AT_LEAST_1),
    "TRAIN_JITTER_FPS": Key(0.0, "largest random change of TARGET_FPS in training", AT_LEAST_0),
    "SAMPLE_BY_TIME": Key(True,
        "at varying frame rates, take the frame shown at each point in time; False: count frames "
        "(PySlowFast finds the start by time and counts from there)", ours=True),
    "USE_OFFSET_SAMPLING": Key(False, "let test clips reach the end of the video"),
    "MEAN": Key([0.45, 0.45, 0.45], "subtracted from R, G, B in [0, 1]"),
    "STD": Key([0.225, 0.225, 0.225], "divides R, G, B after that", ABOVE_0),
    "INPUT_CHANNEL_NUM": Key([3, 3], "input channels of each pathway",
        Range("3, as videos are RGB", lambda x: x == 3)),
    "REVERSE_INPUT_CHANNEL": Key(False, "BGR instead of RGB"),
    "TRAIN_JITTER_SCALES": Key([256, 320], "range of the short side before the random crop",
        AT_LEAST_1),
    "TRAIN_JITTER_SCALES_RELATIVE": Key([], "range of the crop's share of the area, instead",
        ABOVE_0, entry=float),
    "TRAIN_JITTER_ASPECT_RELATIVE": Key([], "range of the crop's aspect ratio, with the above",
        ABOVE_0, entry=float),
    "INV_UNIFORM_SAMPLE": Key(False, "draw 1 / short side uniformly"),
    "RANDOM_FLIP": Key(True, "mirror half of the training clips"),
    "VAL_VIEW": Key("centre", "clip and crop of a validation; random: as in PySlowFast, with flip",
        one_of("centre", "random"), ours=True),
    "TRAIN_CROP_SIZE": Key(224, "side of the square training crop", AT_LEAST_1),
    "TRAIN_PIXELS": Key("uint8", "pixels of training clips: uint8 (fast) or float32 (not rounded)",
        one_of("uint8", "float32"), ours=True),
    "TEST_CROP_SIZE": Key(256, "side of the test crops, and the short side of 3 crops", AT_LEAST_1),
    "TRAIN_PCA_NOISE": Key(0.1, "images: strength of AlexNet's colour noise; 0: none", AT_LEAST_0,
        ours=True),
    "TRAIN_PCA_EIGVAL": Key([0.2175, 0.0188, 0.0045],
        "images: variances of that noise, of R, G, B in [0, 1] (PySlowFast's differ)", AT_LEAST_0),
    "TRAIN_PCA_EIGVEC": Key(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]],
        "images: directions of that noise, as columns"),
    "IN_VAL_CROP_RATIO": Key(0.875,
        "images: a test resizes the short side to TEST_CROP_SIZE / this", SHARE),
    "TEST_INTERPOLATION": Key("bilinear", "images: resize in a test", one_of("bilinear", "bicubic"),
        ours=True),
    "DECODING_BACKEND": Key("pyav", "library that decodes videos",
        one_of("pyav", "decord", "torchcodec")),
    # Off: PySlowFast ignores the aspect ratio of pixels, and published weights were trained
    # that way. Many copies of Kinetics are stored as 340x256 and declare 16:9.
    "SQUARE_PIXELS": Key(False, "resize frames whose pixels are not square, as players do",
        ours=True),
    "ALLOW_PARTIAL": Key(False, "use those frames of a damaged video that decode", ours=True),
    "DECODE_TIMEOUT": Key(120.0, "seconds to decode a video in a loader; 0: no limit", AT_LEAST_0,
        ours=True),
    "MAX_BAD_FRACTION": Key(0.1, "stop where more than this share of a list is unreadable",
        PROBABILITY, ours=True),
    "MULTI_LABEL": Key(False, "several labels for a video"),
    "ENSEMBLE_METHOD": Key("sum", "how the scores of a video's views are joined",
        one_of("sum", "max")),
    "DUMMY_LOAD": Key(False, "random clips instead of videos"),
}
_DATA_LOADER = {
    "NUM_WORKERS": Key(8, "loader processes of each training process", AT_LEAST_0),
    "PIN_MEMORY": Key(True, "page-locked batches, which are copied while the GPU works"),
}
_MODEL = {
    "ARCH": Key("slowfast", "kind of network; 2d: an image network; external: another project's",
        one_of("c2d", "i3d", "slow", "slowfast", "slow_c2d", "slow_i3d", "x3d", "r2plus1d", "csn",
            "2d", "external"), REFUSED),
    "MODEL_NAME": Key("SlowFast",
        "SlowFast for two pathways, X3D for x3d, else ResNet; follows ARCH where it is not set; "
        "with ARCH 2d a name of octvideo.list_models(); with ARCH external torchvision/NAME, "
        "timm/NAME, pytorchvideo/NAME or package.module:function",
        one_of("ResNet", "SlowFast", "X3D"), REFUSED),
    "OPTIONS": Key([], "with ARCH external: name=value arguments of the function that makes the "
        "network", None, REFUSED, str, ours=True),
    "NUM_CLASSES": Key(400, "classes", AT_LEAST_1, REFUSED),
    "LOSS_FUNC": Key("cross_entropy", "loss of training",
        one_of("cross_entropy", "soft_cross_entropy", "bce_logit")),
    "DROPOUT_RATE": Key(0.5, "dropout before the last layer", BELOW_1),
    "FC_INIT_STD": Key(0.01, "standard deviation of the last layer's first weights", AT_LEAST_0),
    "HEAD_ACT": Key("softmax", "activation of the scores in eval()",
        one_of("softmax", "sigmoid", "none")),
    "ACT_CHECKPOINT": Key(False, "recompute activations in the backward pass"),
    "FOLD_CONV3D": Key(True, "compute video convolutions as 2D ones where possible", ours=True),
    "FROZEN_BN": Key(False, "keep the statistics of batch norm in training"),
}
_RESNET = {
    "DEPTH": Key(50, "layers of the network", AT_LEAST_1),
    "TRANS_FUNC": Key("bottleneck_transform", "kind of residual block; x3d_transform: of X3D",
        one_of("bottleneck_transform", "basic_transform", "x3d_transform")),
    "NUM_GROUPS": Key(1, "groups of the 3x3 convolution; ResNeXt: 32", AT_LEAST_1),
    "WIDTH_PER_GROUP": Key(64, "channels of a group in res2", AT_LEAST_1),
    "EXPANSION": Key(4, "output channels of a stage / its width", AT_LEAST_1, ours=True),
    "STRIDE_1X1": Key(False, "stride on the 1x1 convolution, not on the 3x3; not SlowFast"),
    "INPLACE_RELU": Key(True, "overwrite the input of a ReLU"),
    "ZERO_INIT_FINAL_BN": Key(False,
        "start the last batch norm of each block, non-local ones too, at 0"),
    "ZERO_INIT_FINAL_CONV": Key(False, "start the last convolution of each block at 0"),
    "NUM_BLOCK_TEMP_KERNEL": Key([[3], [4], [6], [3]],
        "blocks of each stage and pathway that may have a temporal kernel", AT_LEAST_0),
    "SPATIAL_STRIDES": Key([[1], [2], [2], [2]], "strides of each stage and pathway", AT_LEAST_1),
    "SPATIAL_DILATIONS": Key([[1], [1], [1], [1]], "dilations of each stage and pathway",
        AT_LEAST_1),
}
_NONLOCAL = {
    "LOCATION": Key([[[]], [[]], [[]], [[]]],
        "blocks, from 0, of each stage and pathway that a non-local block follows", AT_LEAST_0,
        entry=int),
    "GROUP": Key([[1], [1], [1], [1]], "temporal groups of each stage and pathway", AT_LEAST_1),
    "INSTANTIATION": Key("dot_product", "how affinities are normalised",
        one_of("softmax", "dot_product")),
    "POOL": Key([[[1, 2, 2], [1, 2, 2]] for _ in range(4)],
        "max pool (T, H, W) of key and value, of each stage and pathway", AT_LEAST_1),
}
_SLOWFAST = {
    "ALPHA": Key(8, "frames of the fast pathway / of the slow one", AT_LEAST_1),
    "BETA_INV": Key(8, "channels of the slow pathway / of the fast one", AT_LEAST_1),
    "FUSION_CONV_CHANNEL_RATIO": Key(2, "output channels of a lateral convolution / input channels",
        AT_LEAST_1),
    "FUSION_KERNEL_SZ": Key(5, "its temporal kernel", AT_LEAST_1),
}
_X3D = {
    "WIDTH_FACTOR": Key(1.0, "multiplies the channels of all stages", ABOVE_0),
    "DEPTH_FACTOR": Key(1.0, "multiplies the blocks, 1, 2, 5, 3, of the stages", ABOVE_0),
    "BOTTLENECK_FACTOR": Key(1.0, "inner channels of a block / output channels", ABOVE_0),
    "DIM_C5": Key(2048, "inputs of the last layer", AT_LEAST_1),
    "DIM_C1": Key(12, "channels of the stem and of res2 before WIDTH_FACTOR", AT_LEAST_1),
    "SCALE_RES2": Key(False, "double the channels of res2, too"),
    "BN_LIN5": Key(False, "batch norm before the last layer"),
    "CHANNELWISE_3x3x3": Key(True, "depthwise 3x3x3 convolutions; False: RESNET.NUM_GROUPS"),
    "PYTORCHVIDEO": Key(False,
        "as PyTorchVideo builds it: widths are multiples of 8, no batch norm on the shortcut of "
        "res2", ours=True),
}
_OCTAVE = {
    "ENABLE": Key(False, "use octave convolutions", ours=True),
    "ALPHA": Key(0.125, "share of low-frequency channels", BELOW_1, ours=True),
    "STAGES": Key([2, 3, 4, 5], "which of res2 to res5 are octave",
        Range("among 2, 3, 4, 5", lambda x: x in (2, 3, 4, 5)), ours=True),
    "PATHWAYS": Key([0], "which pathways are octave; 0 is the slow one", ours=True),
    "CHANNEL_DIVISOR": Key(1, "round low channels to a multiple of this", AT_LEAST_1, ours=True),
    "POOL_STRIDE": Key(False,
        "pool, then stride 1, in the first plain stage after an octave one: for networks inflated "
        "from a 2D one", ours=True),
    "NONLOCAL_MODE": Key("cross",
        "non-local blocks: key and value from L (cross), or all from H (high)",
        one_of("cross", "high"), ours=True),
}
_BN = {
    "EPSILON": Key(1e-5, "added to the variance", ABOVE_0, resume=REFUSED),
    "MOMENTUM": Key(0.1, "weight of the newest batch in the running statistics", SHARE),
    "USE_PRECISE_STATS": Key(False, "recompute the statistics before a validation"),
    "NUM_BATCHES_PRECISE": Key(200, "batches used for that", AT_LEAST_1),
    "WEIGHT_DECAY": Key(0.0, "weight decay of batch norm", AT_LEAST_0),
    "NORM_TYPE": Key("batchnorm", "sync_batchnorm: statistics over all processes",
        one_of("batchnorm", "sync_batchnorm")),
}
_SOLVER = {
    "BASE_LR": Key(0.1, "learning rate", ABOVE_0),
    "LR_POLICY": Key("cosine", "course of the learning rate",
        one_of("cosine", "steps_with_relative_lrs")),
    "COSINE_END_LR": Key(0.0, "rate at the end of the cosine", AT_LEAST_0),
    "GAMMA": Key(0.1, "decay factor; no policy uses it", ABOVE_0),
    "STEPS": Key([], "epochs at which the rates of LRS begin; the first is 0", AT_LEAST_0,
        entry=float),
    "LRS": Key([], "rates relative to BASE_LR, one a step", AT_LEAST_0, entry=float),
    "MAX_EPOCH": Key(300, "epochs", AT_LEAST_1),
    "MOMENTUM": Key(0.9, "momentum of SGD", BELOW_1),
    "DAMPENING": Key(0.0, "dampening of SGD", AT_LEAST_0),
    "NESTEROV": Key(True, "Nesterov momentum"),
    "WEIGHT_DECAY": Key(1e-4, "weight decay", AT_LEAST_0),
    "WARMUP_EPOCHS": Key(0.0, "epochs of linear warm-up", AT_LEAST_0),
    "WARMUP_START_LR": Key(0.01, "rate at the start of the warm-up", AT_LEAST_0),
    "OPTIMIZING_METHOD": Key("sgd", "optimizer", one_of("sgd", "adam", "adamw"), REFUSED),
    "BASE_LR_SCALE_NUM_SHARDS": Key(False, "multiply all rates by the number of nodes"),
    "COSINE_AFTER_WARMUP": Key(False, "start the cosine where the warm-up ends"),
    "ZERO_WD_1D_PARAM": Key(False, "no weight decay on biases and other vectors", None, REFUSED),
    "CLIP_GRAD_VAL": Key(None, "limit of each gradient's absolute value", ABOVE_0),
    "CLIP_GRAD_L2NORM": Key(None, "limit of the norm of all gradients", ABOVE_0),
    "LARS_ON": Key(False, "layer-wise adaptive rates around the optimizer"),
    "BETAS": Key((0.9, 0.999), "betas of Adam", BELOW_1),
}
_EMA = {
    "ENABLE": Key(False, "keep a running average of the weights", ours=True),
    "DECAY": Key(0.9999, "weight of the old average, which spans about 1 / (1 - DECAY) steps",
        BELOW_1, ours=True),
}
_AUG = {
    "ENABLE": Key(False, "RandAugment and random erasing"),
    "NUM_SAMPLE": Key(1, "copies of each clip, augmented one by one", AT_LEAST_1),
    "COLOR_JITTER": Key(0.4, "images without AA_TYPE: change of brightness, contrast, saturation",
        AT_LEAST_0),
    "AA_TYPE": Key("rand-m9-mstd0.5-inc1", "RandAugment in timm's notation; empty: none"),
    "INTERPOLATION": Key("bicubic", "interpolation of geometric operations",
        one_of("bicubic", "bilinear", "random", when="AUG.ENABLE")),
    "RE_PROB": Key(0.25, "probability of random erasing", PROBABILITY),
    "RE_MODE": Key("pixel", "erased pixels become noise (pixel), one colour (rand) or 0 (const)",
        one_of("pixel", "rand", "const", when="AUG.ENABLE")),
    "RE_COUNT": Key(1, "most erased boxes of a clip", AT_LEAST_1),
    "RE_SPLIT": Key(False, "leave the first copy of a clip unerased"),
}
_MIXUP = {
    "ENABLE": Key(False, "mixup, CutMix and label smoothing"),
    "ALPHA": Key(0.8, "beta distribution of mixup; 0: off", AT_LEAST_0),
    "CUTMIX_ALPHA": Key(1.0, "beta distribution of CutMix; 0: off", AT_LEAST_0),
    "PROB": Key(1.0, "probability that a batch is mixed", PROBABILITY),
    "SWITCH_PROB": Key(0.5, "probability of CutMix where both are on", PROBABILITY),
    "LABEL_SMOOTH_VALUE": Key(0.1, "share of a label spread over all classes", PROBABILITY),
}
_TENSORBOARD = {
    "ENABLE": Key(False, "write TensorBoard logs"),
    "LOG_DIR": Key("", "their folder; empty: runs-<data set> under OUTPUT_DIR"),
}
_MULTIGRID = {
    "SHORT_CYCLE": Key(False, "multigrid training"),
    "LONG_CYCLE": Key(False, "multigrid training"),
}
# fmt: on

# Section -> what a change of its keys does where a run resumes, and its keys.
_SECTIONS: dict[str, tuple[Resume, dict[str, Key]]] = {
    "": (FREE, _TOP),
    "TRAIN": (FREE, _TRAIN),
    "TEST": (FREE, _TEST),
    "DATA": (WARNED, _DATA),
    "DATA_LOADER": (FREE, _DATA_LOADER),
    "MODEL": (WARNED, _MODEL),
    "RESNET": (REFUSED, _RESNET),
    "NONLOCAL": (REFUSED, _NONLOCAL),
    "SLOWFAST": (REFUSED, _SLOWFAST),
    "X3D": (REFUSED, _X3D),
    "OCTAVE": (REFUSED, _OCTAVE),
    "BN": (WARNED, _BN),
    "SOLVER": (WARNED, _SOLVER),
    "EMA": (WARNED, _EMA),
    "AUG": (WARNED, _AUG),
    "MIXUP": (WARNED, _MIXUP),
    "TENSORBOARD": (FREE, _TENSORBOARD),
    "MULTIGRID": (FREE, _MULTIGRID),
}

KEYS: dict[str, Key] = {
    f"{section}.{name}".lstrip("."): key
    for section, (_, keys) in _SECTIONS.items()
    for name, key in keys.items()
}


def resume_effect(key: str) -> Resume:
    """Returns what a changed value of a key does where a run resumes."""
    return KEYS[key].resume or _SECTIONS[key.rpartition(".")[0]][0]


def get_cfg() -> CfgNode:
    """Returns a new, unfrozen tree of the defaults."""
    tree: dict[str, object] = {}
    for section, (_, keys) in _SECTIONS.items():
        values = {name: key.default for name, key in keys.items()}
        tree.update({section: values} if section else values)
    return CfgNode(deepcopy(tree))


def leaf_values(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    """Returns every key with its value, as ``{"TRAIN.BATCH_SIZE": 64, ...}``."""
    leaves: dict[str, object] = {}
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            leaves.update(leaf_values(value, f"{prefix}{name}."))
        else:
            leaves[prefix + name] = value
    return leaves


def value_of(cfg: CfgNode, key: str) -> Any:
    """Returns the value of a dotted key."""
    return reduce(getitem, key.split("."), cfg)
