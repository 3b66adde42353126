"""The configuration tree: every key, its default value and what it does.

The names, meanings and defaults are those of PySlowFast, so that its YAML files carry over;
OCTAVE, EMA and the keys marked "ours" are new. Sections and keys of PySlowFast that octvideo
has no use for are listed in ``scope.py``.
"""

from typing import Any

from fvcore.common.config import CfgNode

_DEFAULTS: dict[str, Any] = {
    "NUM_GPUS": 1,  # GPUs of one node, a process each; 0 runs on the CPU
    "NUM_SHARDS": 1,  # nodes of the job; torchrun and SLURM tell it themselves
    "SHARD_ID": 0,  # which of them this one is, from 0
    "OUTPUT_DIR": ".",  # checkpoints, logs and results go there
    "RNG_SEED": 1,  # seed of weights, order and augmentation
    "LOG_PERIOD": 10,  # optimiser steps between two log lines
    "JSON_STATS_STEPS": True,  # ours: json_stats.log has steps as well; PySlowFast's only epochs
    "LOG_MODEL_INFO": True,  # log parameters and multiply-adds at the start
    "DIST_BACKEND": "nccl",  # nccl or gloo; on the CPU it is always gloo
    "DIST_TIMEOUT": 600,  # ours: seconds to wait for a process that does not come or answer
    "CUDNN_BENCHMARK": True,  # ours: cuDNN times its algorithms once for each size of a clip
    "ALLOW_TF32": True,  # ours: GPUs multiply fp32 with 10 bits of mantissa where they can
    "TRAIN": {
        "ENABLE": True,  # train at all
        "DATASET": "kinetics",  # kind of data set: kinetics (videos) or imagenet (pictures)
        "BATCH_SIZE": 64,  # clips an optimiser step, on one node
        "EVAL_PERIOD": 10,  # epochs between two validations; 0: none
        "CHECKPOINT_PERIOD": 10,  # epochs between two checkpoints
        "CHECKPOINT_SECONDS": 1800.0,  # ours: between two checkpoints within an epoch; 0: none
        "KEEP_CHECKPOINTS": 0,  # ours: epoch checkpoints that are kept, the best aside; 0: all
        "AUTO_RESUME": True,  # continue from the newest checkpoint in OUTPUT_DIR
        "CHECKPOINT_FILE_PATH": "",  # weights that a new run starts from: file, address, zoo name
        "CHECKPOINT_TYPE": "pytorch",  # ignored: the format is recognised from the file
        "CHECKPOINT_INFLATE": False,  # that file is a 2D network, to be inflated in time
        "CHECKPOINT_EPOCH_RESET": False,  # True: a training of PySlowFast does not go on
        "CHECKPOINT_CLEAR_NAME_PATTERN": (),  # texts removed from its parameter names
        "MIXED_PRECISION": False,  # PySlowFast's name for PRECISION fp16
        "NONFINITE_LOSS": "stop",  # ours: stop the run, or skip the step (3 in a row: stop)
        "PRECISION": "fp32",  # ours: autocast to bf16 or fp16 (with a loss scaler), or fp32
        "ACCUMULATE_STEPS": 1,  # ours: parts that a batch is computed in, one after another
        "COMPILE": False,  # ours: torch.compile
    },
    "TEST": {
        "ENABLE": True,  # test at all
        "DATASET": "kinetics",  # kind of data set: kinetics (videos) or imagenet (pictures)
        "BATCH_SIZE": 8,  # clips a forward pass, on one node
        "CHECKPOINT_FILE_PATH": "",  # weights to test; empty takes the newest of OUTPUT_DIR
        "CHECKPOINT_TYPE": "pytorch",  # ignored, as TRAIN.CHECKPOINT_TYPE
        "CHECKPOINT": "last",  # ours: of OUTPUT_DIR; last, or best (lowest validation error)
        "NUM_ENSEMBLE_VIEWS": 10,  # clips in time, for each video; -1: tests of 1, 3, 5, 7, 10
        "NUM_TEMPORAL_CLIPS": [],  # a test of each of these numbers of clips, instead
        # Crops of each clip: 3, or 1, the centre of frames whose short side is
        # DATA.TRAIN_JITTER_SCALES[0].
        "NUM_SPATIAL_CROPS": 3,
        "SAVE_RESULTS_PATH": "",  # file for the score table, under OUTPUT_DIR
        "PRECISION": "fp32",  # ours: autocast to bf16 or fp16, or fp32
        "COMPILE": False,  # ours: torch.compile
    },
    "DATA": {
        "PATH_TO_DATA_DIR": "",  # folder of train.csv, val.csv, test.csv; of pictures: train/, val/
        "PATH_PREFIX": "",  # put before every path of the lists
        "PATH_LABEL_SEPARATOR": " ",  # between path and label; the last one of a line counts
        "NUM_FRAMES": 8,  # frames of a clip
        "SAMPLING_RATE": 8,  # distance of two frames of a clip, at TARGET_FPS
        "TARGET_FPS": 30,  # frame rate that SAMPLING_RATE refers to
        "TRAIN_JITTER_FPS": 0.0,  # TARGET_FPS varies by up to this much in training
        # ours: where the frame rate of a video varies, take the frame that is shown at each point
        # in time. False counts frames, as if they came evenly. (PySlowFast finds the start of a
        # clip by time and counts from there.)
        "SAMPLE_BY_TIME": True,
        "USE_OFFSET_SAMPLING": False,  # test clips reach the end of the video, whole frames apart
        "MEAN": [0.45, 0.45, 0.45],  # subtracted from R, G, B in [0, 1]
        "STD": [0.225, 0.225, 0.225],  # R, G, B are divided by it afterwards
        "INPUT_CHANNEL_NUM": [3, 3],  # input channels of each pathway
        "REVERSE_INPUT_CHANNEL": False,  # BGR instead of RGB
        "TRAIN_JITTER_SCALES": [256, 320],  # range of the short side before the crop
        "TRAIN_JITTER_SCALES_RELATIVE": [],  # range of the crop's share of the area, instead
        "TRAIN_JITTER_ASPECT_RELATIVE": [],  # range of the crop's aspect ratio, with the above
        "INV_UNIFORM_SAMPLE": False,  # 1 / short side is uniform, not the short side
        "RANDOM_FLIP": True,  # mirror half of the training clips
        "VAL_VIEW": "centre",  # ours: validation's clip and crop; random: as PySlowFast, with flip
        "TRAIN_CROP_SIZE": 224,  # side of the square training crop
        "TRAIN_PIXELS": "uint8",  # ours: of training clips; uint8 (fast) or float32 (not rounded)
        "TEST_CROP_SIZE": 256,  # side of the test crops; short side too, unless there is one crop
        # Below: of pictures (imagenet) alone.
        "TRAIN_PCA_NOISE": 0.1,  # ours: strength of the colour noise of AlexNet; 0: none
        # Of the noise: variances, and directions as columns, of R, G, B in [0, 1]. (PySlowFast has
        # other variances, the deviations of the colours.)
        "TRAIN_PCA_EIGVAL": [0.2175, 0.0188, 0.0045],
        "TRAIN_PCA_EIGVEC": [
            [-0.5675, 0.7192, 0.4009],
            [-0.5808, -0.0045, -0.8140],
            [-0.5836, -0.6948, 0.4203],
        ],
        "IN_VAL_CROP_RATIO": 0.875,  # test: the short side is resized to TEST_CROP_SIZE / this
        "TEST_INTERPOLATION": "bilinear",  # ours: bilinear or bicubic
        # Of videos again.
        "DECODING_BACKEND": "pyav",  # pyav, decord or torchcodec
        # ours: resize frames whose pixels are not square, as players do. Off, because PySlowFast
        # ignores the aspect ratio of pixels and published weights were trained that way: many
        # copies of Kinetics are stored as 340x256 and declare 16:9.
        "SQUARE_PIXELS": False,
        "ALLOW_PARTIAL": False,  # ours: of a damaged video, take the frames that decode
        "DECODE_TIMEOUT": 120.0,  # ours: seconds a loader process may take for a video; 0: no limit
        "MAX_BAD_FRACTION": 0.1,  # ours: a run stops where more videos of a list are unreadable
        "MULTI_LABEL": False,  # several labels a video
        "ENSEMBLE_METHOD": "sum",  # scores of a video's views: sum or max
        "DUMMY_LOAD": False,  # random clips instead of videos
    },
    "DATA_LOADER": {
        "NUM_WORKERS": 8,  # loader processes of each training process
        "PIN_MEMORY": True,  # page-locked batches, for copies that overlap
    },
    "MODEL": {
        "ARCH": "slowfast",  # c2d, i3d, slow, slowfast, slow_c2d, slow_i3d or 2d
        # SlowFast for the two pathways, else ResNet; follows ARCH where it is left out. Of 2d: see
        # list_models().
        "MODEL_NAME": "SlowFast",
        "NUM_CLASSES": 400,  # width of the last layer
        "LOSS_FUNC": "cross_entropy",  # cross_entropy, soft_cross_entropy or bce_logit
        "DROPOUT_RATE": 0.5,  # before the last layer
        "FC_INIT_STD": 0.01,  # standard deviation of the last layer's first weights
        "HEAD_ACT": "softmax",  # softmax, sigmoid or none; applied in eval() only
        "ACT_CHECKPOINT": False,  # recompute activations in the backward pass
        "FOLD_CONV3D": True,  # ours: video convolutions as 2D ones where they can be
        "FROZEN_BN": False,  # batch norm keeps its statistics in training
    },
    "RESNET": {
        "DEPTH": 50,  # layers of the network
        "TRANS_FUNC": "bottleneck_transform",  # or basic_transform
        "NUM_GROUPS": 1,  # groups of the 3x3 convolution; ResNeXt: 32
        "WIDTH_PER_GROUP": 64,  # channels a group in res2
        "EXPANSION": 4,  # ours: channels of a stage's output over its width; see GETTING_STARTED
        "STRIDE_1X1": False,  # stride on the 1x1 convolution, not on the 3x3; not of SlowFast
        "INPLACE_RELU": True,  # overwrite the input of a ReLU
        "ZERO_INIT_FINAL_BN": False,  # a block's last batch norm starts at 0; non-local ones too
        "ZERO_INIT_FINAL_CONV": False,  # a block's last convolution starts at 0
        # Below: for each stage, a list of one value a pathway; a single one stands for both.
        "NUM_BLOCK_TEMP_KERNEL": [[3], [4], [6], [3]],  # blocks that may have a temporal kernel
        "SPATIAL_STRIDES": [[1], [2], [2], [2]],
        "SPATIAL_DILATIONS": [[1], [1], [1], [1]],
    },
    "NONLOCAL": {  # each for every stage and pathway
        "LOCATION": [[[]], [[]], [[]], [[]]],  # blocks, from 0, that a non-local block follows
        "GROUP": [[1], [1], [1], [1]],  # temporal groups
        "INSTANTIATION": "dot_product",  # or softmax
        "POOL": [[[1, 2, 2], [1, 2, 2]] for _ in range(4)],  # max pool (T, H, W) of key and value
    },
    "SLOWFAST": {
        "ALPHA": 8,  # frames of the fast pathway for one of the slow
        "BETA_INV": 8,  # channels of the slow pathway for one of the fast
        "FUSION_CONV_CHANNEL_RATIO": 2,  # outputs of a lateral convolution for one input
        "FUSION_KERNEL_SZ": 5,  # its temporal kernel
    },
    "OCTAVE": {  # ours
        "ENABLE": False,  # octave convolutions
        "ALPHA": 0.125,  # share of low-frequency channels, in [0, 1)
        "STAGES": [2, 3, 4, 5],  # which of res2..res5 are octave
        "PATHWAYS": [0],  # which pathways are octave; 0 is the slow one
        "CHANNEL_DIVISOR": 1,  # low channels are rounded to a multiple of it
        "POOL_STRIDE": False,  # plain strides behind the octave pool; if inflated from one of 2D
        "NONLOCAL_MODE": "cross",  # key and value on L (cross), or all on H (high)
        # Variants of the operator for ablation studies; these are the paper's.
        "DOWNSAMPLE": "avg",  # how maps are halved: avg, max or strided_conv
        "UPSAMPLE_FIRST": False,  # upsample L before its convolution to H, not after
        "PATHS": "both",  # no_h2l or no_l2h: without that way between the frequencies
    },
    "BN": {
        "EPSILON": 1e-5,
        "MOMENTUM": 0.1,  # weight of the newest batch in the running statistics
        "USE_PRECISE_STATS": False,  # recompute the statistics before a validation
        "NUM_BATCHES_PRECISE": 200,  # batches that are used for it
        "WEIGHT_DECAY": 0.0,  # of batch-norm parameters
        "NORM_TYPE": "batchnorm",  # sync_batchnorm: statistics of the batches of all processes
    },
    "SOLVER": {
        "BASE_LR": 0.1,
        "LR_POLICY": "cosine",  # or steps_with_relative_lrs
        "COSINE_END_LR": 0.0,  # where the cosine ends
        "GAMMA": 0.1,  # decay factor; no policy of today uses it
        "STEPS": [],  # epochs at which the rates of LRS begin; the first is 0
        "LRS": [],  # rates relative to BASE_LR, one a step
        "MAX_EPOCH": 300,
        "MOMENTUM": 0.9,
        "DAMPENING": 0.0,
        "NESTEROV": True,
        "WEIGHT_DECAY": 1e-4,
        "WARMUP_EPOCHS": 0.0,  # epochs of linear warm-up
        "WARMUP_START_LR": 0.01,  # rate at its start
        "OPTIMIZING_METHOD": "sgd",  # sgd, adam or adamw
        "BASE_LR_SCALE_NUM_SHARDS": False,  # all rates are multiplied by the nodes
        "COSINE_AFTER_WARMUP": False,  # the cosine starts where the warm-up ends
        "ZERO_WD_1D_PARAM": False,  # no weight decay on biases and other vectors
        "CLIP_GRAD_VAL": None,  # limit of each gradient's absolute value
        "CLIP_GRAD_L2NORM": None,  # limit of the norm of all gradients
        "LARS_ON": False,  # layer-wise adaptive rates around the optimiser
        "BETAS": (0.9, 0.999),  # of Adam
    },
    "EMA": {  # ours: running average of the weights
        "ENABLE": False,
        "DECAY": 0.9999,  # weight of the old average; it spans about 1 / (1 - DECAY) steps
    },
    "AUG": {
        "ENABLE": False,  # RandAugment and random erasing
        "NUM_SAMPLE": 1,  # copies of each clip in a batch, cropped and augmented on their own
        "COLOR_JITTER": 0.4,  # brightness, contrast, saturation of pictures, without AA_TYPE
        "AA_TYPE": "rand-m9-mstd0.5-inc1",  # RandAugment in timm's notation; empty: none
        "INTERPOLATION": "bicubic",  # of geometric operations; bilinear, bicubic or random
        "RE_PROB": 0.25,  # probability of random erasing
        "RE_MODE": "pixel",  # what erased pixels become: pixel (noise), rand (a colour), const
        "RE_COUNT": 1,  # erased boxes a clip, at most
        "RE_SPLIT": False,  # leave the first copy of a clip unerased
    },
    "MIXUP": {
        "ENABLE": False,  # mixup, CutMix and label smoothing
        "ALPHA": 0.8,  # beta distribution of mixup; 0 is off
        "CUTMIX_ALPHA": 1.0,  # beta distribution of CutMix; 0 is off
        "PROB": 1.0,  # probability of mixing a batch
        "SWITCH_PROB": 0.5,  # probability of CutMix where both are on
        "LABEL_SMOOTH_VALUE": 0.1,
    },
    "TENSORBOARD": {
        "ENABLE": False,
        "LOG_DIR": "",  # empty: runs-<data set> under OUTPUT_DIR
    },
    "MULTIGRID": {
        "SHORT_CYCLE": False,
        "LONG_CYCLE": False,
    },
}

# Type of the entries of lists that are empty in the tree above.
ENTRY_TYPES: dict[str, type] = {
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": float,
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": float,
    "NONLOCAL.LOCATION": int,
    "SOLVER.STEPS": float,
    "SOLVER.LRS": float,
    "TEST.NUM_TEMPORAL_CLIPS": int,
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": str,
}


def get_cfg() -> CfgNode:
    """A fresh, unfrozen tree of the defaults."""
    return CfgNode(_DEFAULTS)


def leaf_values(cfg: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Every key with its value, as ``{"TRAIN.BATCH_SIZE": 64, ...}``."""
    leaves: dict[str, Any] = {}
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            leaves.update(leaf_values(value, f"{prefix}{name}."))
        else:
            leaves[prefix + name] = value
    return leaves
