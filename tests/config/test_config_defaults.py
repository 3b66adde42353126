"""The keys and defaults that users bring from PySlowFast, and the files that we ship."""

from functools import reduce
from operator import getitem
from pathlib import Path

import pytest

from octvideo.config import get_cfg, load_cfg
from octvideo.config.keys import KEYS, leaf_values
from octvideo.config.schema import Choices, Key, Range, one_of
from octvideo.config.table import keys_page
from octvideo.config.unsupported import FOREIGN_VALUES, IGNORED, NOT_YET, REFUSED
from support import ROOT

KINETICS = ROOT / "configs" / "Kinetics"

# From the table of keys that mean what they mean in PySlowFast; written by hand.
CONTRACT = {
    "": {
        "NUM_GPUS": 1,
        "NUM_SHARDS": 1,
        "SHARD_ID": 0,
        "OUTPUT_DIR": ".",
        "RNG_SEED": 1,
        "LOG_PERIOD": 10,
        "LOG_MODEL_INFO": True,
        "DIST_BACKEND": "nccl",
    },
    "TRAIN": {
        "ENABLE": True,
        "DATASET": "kinetics",
        "BATCH_SIZE": 64,
        "EVAL_PERIOD": 10,
        "CHECKPOINT_PERIOD": 10,
        "AUTO_RESUME": True,
        "CHECKPOINT_FILE_PATH": "",
        "CHECKPOINT_TYPE": "pytorch",
        "CHECKPOINT_INFLATE": False,
        "CHECKPOINT_EPOCH_RESET": False,
        "CHECKPOINT_CLEAR_NAME_PATTERN": (),
        "MIXED_PRECISION": False,
        "PRECISION": "fp32",
        "ACCUMULATE_STEPS": 1,
        "COMPILE": False,
    },
    "TEST": {
        "ENABLE": True,
        "DATASET": "kinetics",
        "BATCH_SIZE": 8,
        "CHECKPOINT_FILE_PATH": "",
        "CHECKPOINT_TYPE": "pytorch",
        "NUM_ENSEMBLE_VIEWS": 10,
        "NUM_SPATIAL_CROPS": 3,
        "SAVE_RESULTS_PATH": "",
        "PRECISION": "fp32",
    },
    "DATA": {
        "PATH_TO_DATA_DIR": "",
        "PATH_PREFIX": "",
        "PATH_LABEL_SEPARATOR": " ",
        "NUM_FRAMES": 8,
        "SAMPLING_RATE": 8,
        "TARGET_FPS": 30,
        "TRAIN_JITTER_FPS": 0.0,
        "USE_OFFSET_SAMPLING": False,
        "MEAN": [0.45, 0.45, 0.45],
        "STD": [0.225, 0.225, 0.225],
        "INPUT_CHANNEL_NUM": [3, 3],
        "REVERSE_INPUT_CHANNEL": False,
        "TRAIN_JITTER_SCALES": [256, 320],
        "TRAIN_JITTER_SCALES_RELATIVE": [],
        "TRAIN_JITTER_ASPECT_RELATIVE": [],
        "INV_UNIFORM_SAMPLE": False,
        "RANDOM_FLIP": True,
        "TRAIN_CROP_SIZE": 224,
        "TEST_CROP_SIZE": 256,
        "DECODING_BACKEND": "pyav",
        "MULTI_LABEL": False,
        "ENSEMBLE_METHOD": "sum",
        "DUMMY_LOAD": False,
    },
    "DATA_LOADER": {"NUM_WORKERS": 8, "PIN_MEMORY": True},
    "MODEL": {
        "ARCH": "slowfast",
        "MODEL_NAME": "SlowFast",
        "NUM_CLASSES": 400,
        "LOSS_FUNC": "cross_entropy",
        "DROPOUT_RATE": 0.5,
        "FC_INIT_STD": 0.01,
        "HEAD_ACT": "softmax",
        "ACT_CHECKPOINT": False,
        "FROZEN_BN": False,
    },
    "RESNET": {
        "DEPTH": 50,
        "TRANS_FUNC": "bottleneck_transform",
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STRIDE_1X1": False,
        "INPLACE_RELU": True,
        "ZERO_INIT_FINAL_BN": False,
        "NUM_BLOCK_TEMP_KERNEL": [[3], [4], [6], [3]],
        "SPATIAL_STRIDES": [[1], [2], [2], [2]],
        "SPATIAL_DILATIONS": [[1], [1], [1], [1]],
    },
    "NONLOCAL": {
        "LOCATION": [[[]], [[]], [[]], [[]]],
        "GROUP": [[1], [1], [1], [1]],
        "INSTANTIATION": "dot_product",
        "POOL": [[[1, 2, 2], [1, 2, 2]]] * 4,
    },
    "SLOWFAST": {
        "ALPHA": 8,
        "BETA_INV": 8,
        "FUSION_CONV_CHANNEL_RATIO": 2,
        "FUSION_KERNEL_SZ": 5,
    },
    "BN": {
        "EPSILON": 1e-5,
        "MOMENTUM": 0.1,
        "USE_PRECISE_STATS": False,
        "NUM_BATCHES_PRECISE": 200,
        "WEIGHT_DECAY": 0.0,
        "NORM_TYPE": "batchnorm",
    },
    "SOLVER": {
        "BASE_LR": 0.1,
        "LR_POLICY": "cosine",
        "COSINE_END_LR": 0.0,
        "GAMMA": 0.1,
        "STEPS": [],
        "LRS": [],
        "MAX_EPOCH": 300,
        "MOMENTUM": 0.9,
        "DAMPENING": 0.0,
        "NESTEROV": True,
        "WEIGHT_DECAY": 1e-4,
        "WARMUP_EPOCHS": 0.0,
        "WARMUP_START_LR": 0.01,
        "OPTIMIZING_METHOD": "sgd",
        "BASE_LR_SCALE_NUM_SHARDS": False,
        "COSINE_AFTER_WARMUP": False,
        "ZERO_WD_1D_PARAM": False,
        "CLIP_GRAD_VAL": None,
        "CLIP_GRAD_L2NORM": None,
        "LARS_ON": False,
        "BETAS": (0.9, 0.999),
    },
    "AUG": {
        "ENABLE": False,
        "NUM_SAMPLE": 1,
        "COLOR_JITTER": 0.4,
        "AA_TYPE": "rand-m9-mstd0.5-inc1",
        "INTERPOLATION": "bicubic",
        "RE_PROB": 0.25,
        "RE_MODE": "pixel",
        "RE_COUNT": 1,
        "RE_SPLIT": False,
    },
    "MIXUP": {
        "ENABLE": False,
        "ALPHA": 0.8,
        "CUTMIX_ALPHA": 1.0,
        "PROB": 1.0,
        "SWITCH_PROB": 0.5,
        "LABEL_SMOOTH_VALUE": 0.1,
    },
    "TENSORBOARD": {"ENABLE": False, "LOG_DIR": ""},
    "MULTIGRID": {"SHORT_CYCLE": False, "LONG_CYCLE": False},
    "OCTAVE": {
        "ENABLE": False,
        "ALPHA": 0.125,
        "STAGES": [2, 3, 4, 5],
        "PATHWAYS": [0],
        "CHANNEL_DIVISOR": 1,
    },
    "EMA": {"ENABLE": False},
}
CONTRACT_LEAVES = {
    f"{section}.{name}".lstrip("."): value
    for section, keys in CONTRACT.items()
    for name, value in keys.items()
}


@pytest.mark.parametrize("key", CONTRACT_LEAVES)
def test_contract_key_has_its_default(key: str) -> None:
    value = reduce(getitem, key.split("."), get_cfg())
    assert value == CONTRACT_LEAVES[key]
    assert type(value) is type(CONTRACT_LEAVES[key])


def test_trees_do_not_share_state() -> None:
    get_cfg().DATA.MEAN[0] = 7.0
    get_cfg().TRAIN.BATCH_SIZE = 1
    assert get_cfg().DATA.MEAN == [0.45, 0.45, 0.45]
    assert get_cfg().TRAIN.BATCH_SIZE == 64


def test_every_row_fits_its_default() -> None:
    assert list(KEYS) == list(leaf_values(get_cfg()))
    for key, row in KEYS.items():
        assert row.kind.convert(row.default) == row.default
        assert row.help, key
        if isinstance(row.allowed, Choices):
            assert row.default in row.allowed.options
        elif isinstance(row.allowed, Range):
            assert row.allowed.problem(row.default) is None


def test_the_page_of_keys_is_up_to_date() -> None:
    page = (ROOT / "docs/CONFIG.md").read_text()
    assert page == keys_page(), "run: octvideo config --keys > docs/CONFIG.md"
    assert all(f"| `{key}`" in page for key in KEYS)


def test_tables_name_existing_keys_only_once() -> None:
    known = set(leaf_values(get_cfg()))
    assert (set(NOT_YET) | set(FOREIGN_VALUES)) <= known
    assert not known & (set(IGNORED) | set(REFUSED))


def test_every_number_is_checked_or_needs_no_check() -> None:
    free = {k for k, row in KEYS.items() if row.kind.leaf in (int, float) and not row.allowed}
    any_number = {"DATA.MEAN", "DATA.TRAIN_PCA_EIGVEC"}
    assert free == any_number | {"OCTAVE.PATHWAYS"}  # by architecture


def test_an_empty_default_needs_the_type_of_its_entries() -> None:
    assert str(Key([], "rates", entry=float).kind) == "a list of numbers"
    assert Key("a", "text", one_of("a", "b")).allowed == Choices(("a", "b"))
    with pytest.raises(AssertionError):
        _ = Key([], "rates").kind


# What the recipes share, from PySlowFast's files of the same names.
SHARED_FACTS = {
    "TRAIN.BATCH_SIZE": 64,
    "TRAIN.EVAL_PERIOD": 10,
    "TRAIN.CHECKPOINT_PERIOD": 1,
    "DATA.TRAIN_JITTER_SCALES": [256, 320],
    "DATA.TRAIN_CROP_SIZE": 224,
    "DATA.TEST_CROP_SIZE": 256,
    "DATA.NUM_FRAMES": 8,
    "DATA.SAMPLING_RATE": 8,
    "DATA.INPUT_CHANNEL_NUM": [3],
    "RESNET.DEPTH": 50,
    "RESNET.ZERO_INIT_FINAL_BN": True,
    "RESNET.WIDTH_PER_GROUP": 64,
    "BN.USE_PRECISE_STATS": True,
    "BN.NUM_BATCHES_PRECISE": 200,
    "BN.WEIGHT_DECAY": 0.0,
    "SOLVER.OPTIMIZING_METHOD": "sgd",
    "SOLVER.LR_POLICY": "cosine",
    "SOLVER.BASE_LR": 0.1,
    "SOLVER.MAX_EPOCH": 196,
    "SOLVER.WARMUP_EPOCHS": 34.0,
    "SOLVER.WARMUP_START_LR": 0.01,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "MODEL.MODEL_NAME": "ResNet",
    "MODEL.NUM_CLASSES": 400,
    "MODEL.DROPOUT_RATE": 0.5,
    "TEST.BATCH_SIZE": 64,
    "TEST.NUM_ENSEMBLE_VIEWS": 10,
    "TEST.NUM_SPATIAL_CROPS": 3,
    "DATA_LOADER.NUM_WORKERS": 8,
    "NUM_GPUS": 8,
    "NUM_SHARDS": 1,
    "RNG_SEED": 0,
}


@pytest.mark.parametrize(
    ("name", "arch", "octave"),
    [
        ("C2D_8x8_R50", "c2d", False),
        ("I3D_8x8_R50", "i3d", False),
        ("OCT_C2D_8x8", "c2d", True),
        ("OCT_I3D_8x8", "i3d", True),
    ],
)
def test_kinetics_recipes(name: str, arch: str, octave: bool) -> None:
    cfg = load_cfg(KINETICS / f"{name}.yaml")
    leaves = leaf_values(cfg)
    assert {key: leaves[key] for key in SHARED_FACTS} == SHARED_FACTS
    assert arch == cfg.MODEL.ARCH
    assert octave is cfg.OCTAVE.ENABLE
    assert Path(cfg.OUTPUT_DIR).name == name
    if octave:
        assert cfg.OCTAVE.ALPHA == 0.1
        assert cfg.OCTAVE.STAGES == [2, 3, 4, 5]


@pytest.mark.parametrize("arch", ["C2D", "I3D"])
def test_octave_recipe_differs_in_octave_only(arch: str) -> None:
    vanilla = leaf_values(load_cfg(KINETICS / f"{arch}_8x8_R50.yaml"))
    octave = leaf_values(load_cfg(KINETICS / f"OCT_{arch}_8x8.yaml"))
    differing = {key for key in vanilla if vanilla[key] != octave[key]}
    assert differing == {"OCTAVE.ENABLE", "OCTAVE.ALPHA", "OUTPUT_DIR"}
