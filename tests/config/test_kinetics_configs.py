"""The configurations of Kinetics-400 and Kinetics-600, and PySlowFast's own of the same models."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fvcore.common.config import CfgNode

from octvideo.config import load_cfg
from octvideo.config.keys import leaf_values
from octvideo.engine.optim import build_schedule
from octvideo.models import build_model
from support import ROOT

CONFIGS = ROOT / "configs"
PARTS = (
    "base_R50",
    "base_X3D",
    "from_IN1K",
    "schedule_300k",
    "k600",
)  # what the recipes are put together from
RECIPES = sorted(
    path
    for folder in ("Kinetics", "Kinetics600")
    for path in (CONFIGS / folder).glob("*.yaml")
    if path.stem not in PARTS
)
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")

# The alphas of Table 6; networks that it does not have take the first, SlowFast 8x8 those of 4x16.
ALPHAS = {
    "C2D_8x8": (0.1,),
    "C2D_NLN_8x8": (0.1,),
    "I3D_8x8": (0.1, 0.2, 0.5),
    "I3D_NLN_8x8": (0.1,),
    "SLOW_8x8": (0.1,),
    "SLOW_4x16": (0.1,),
    "SLOWFAST_4x16": (0.1, 0.2),
    "SLOWFAST_8x8": (0.1, 0.2),
}
NL5 = [[], [1, 3], [1, 3, 5], []]
NO_NL = [[], [], [], []]
# name -> (arch, frames, sampling rate, non-local blocks of the first pathway)
NETWORKS = {
    "C2D_8x8": ("c2d", 8, 8, NO_NL),
    "C2D_NLN_8x8": ("c2d", 8, 8, NL5),
    "C2D_NOPOOL_8x8": ("slow_c2d", 8, 8, NO_NL),
    "I3D_8x8": ("i3d", 8, 8, NO_NL),
    "I3D_NLN_8x8": ("i3d", 8, 8, NL5),
    "SLOW_8x8": ("slow", 8, 8, NO_NL),
    "SLOW_4x16": ("slow", 4, 16, NO_NL),
    "SLOWFAST_4x16": ("slowfast", 32, 2, NO_NL),
    "SLOWFAST_8x8": ("slowfast", 32, 2, NO_NL),
}
NETWORKS |= {
    f"X3D_{size}": ("x3d", frames, rate, NO_NL)
    for size, frames, rate in (("XS", 4, 12), ("S", 13, 6), ("M", 16, 5), ("L", 16, 5))
}
NETWORKS |= {
    "R2PLUS1D_16x4": ("r2plus1d", 16, 4, NO_NL),
    "CSN_32x2": ("csn", 32, 2, NO_NL),
}
# Of Kinetics-400 alone, with and without octave, alpha .25.
OF_KINETICS_400 = ("X3D_XS", "X3D_S", "X3D_M", "X3D_L", "R2PLUS1D_16x4_R50", "CSN_32x2_R101")
SLOWFAST_KEYS = {"SLOWFAST_4x16": (8, 5), "SLOWFAST_8x8": (4, 7)}  # ALPHA, kernel


def wanted_names() -> set[str]:
    """What must exist in both folders, from the table of alphas."""
    names = {f"{network}_R50" for network in ALPHAS}
    for network, alphas in ALPHAS.items():
        names |= {f"OCT_{network}" + ("" if a == 0.1 else f"_A{a:g}") for a in alphas}
    # No 2D network has the shapes of a SlowFast network: it is trained from scratch.
    return names | {f"{name}_IN1K" for name in names if "SLOWFAST" not in name}


@pytest.mark.parametrize("folder", ["Kinetics", "Kinetics600"])
def test_every_recipe_is_there(folder: str) -> None:
    names = {path.stem for path in RECIPES if path.parent.name == folder}
    assert wanted_names() <= names
    if folder == "Kinetics":
        octaves = {f"OCT_{re.sub('_R[0-9]+', '', name)}_A0.25" for name in OF_KINETICS_400}
        assert {*OF_KINETICS_400, *octaves} <= names


@every_recipe
def test_a_recipe_is_what_its_name_says(path: Path) -> None:
    cfg = load_cfg(path)
    name = path.stem
    network = re.sub(r"^OCT_|_R50|_R101|_PTV|_A0\.\d+|_IN1K|_300k", "", name)
    arch, frames, rate, blocks = NETWORKS[network]
    assert (arch, frames, rate) == (cfg.MODEL.ARCH, cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE)
    assert [stage[0] for stage in cfg.NONLOCAL.LOCATION] == blocks
    assert not any(stage[1:] != [[]] for stage in cfg.NONLOCAL.LOCATION if arch == "slowfast")
    if blocks == NL5:
        assert cfg.NONLOCAL.INSTANTIATION == "softmax"
    if arch == "slowfast":
        assert SLOWFAST_KEYS[network] == (cfg.SLOWFAST.ALPHA, cfg.SLOWFAST.FUSION_KERNEL_SZ)
        assert cfg.MODEL.MODEL_NAME == "SlowFast"

    assert name.endswith("_PTV") is cfg.X3D.PYTORCHVIDEO
    assert cfg.OCTAVE.ENABLE is name.startswith("OCT_")
    if cfg.OCTAVE.ENABLE:
        alpha = re.search(r"_A(0\.\d+)", name)
        assert float(alpha[1] if alpha else 0.1) == cfg.OCTAVE.ALPHA
        assert ([2, 3, 4] if "IN1K" in name else [2, 3, 4, 5]) == cfg.OCTAVE.STAGES
        assert cfg.OCTAVE.PATHWAYS == [0]
    is_k600 = path.parent.name == "Kinetics600"
    assert (600 if is_k600 else 400) == cfg.MODEL.NUM_CLASSES
    assert Path(cfg.OUTPUT_DIR) == Path("runs/Kinetics600" if is_k600 else "runs") / name
    check_schedule(cfg, name, is_k600)


def check_schedule(cfg: CfgNode, name: str, is_k600: bool) -> None:
    solver = cfg.SOLVER
    assert cfg.TRAIN.CHECKPOINT_INFLATE is ("IN1K" in name)
    if "X3D" in name:
        wanted = (0.05, 256, 64) if "X3D_L" in name else (0.1, 300, 128)
        assert wanted == (solver.BASE_LR, solver.MAX_EPOCH, cfg.TRAIN.BATCH_SIZE)
        assert (solver.WARMUP_EPOCHS, solver.WEIGHT_DECAY) == (35, 5e-5)
        return
    if "IN1K" not in name:
        assert (solver.LR_POLICY, solver.BASE_LR, solver.MAX_EPOCH) == ("cosine", 0.1, 196)
        assert solver.WARMUP_EPOCHS == 34
        return
    assert (solver.LR_POLICY, solver.BASE_LR) == ("steps_with_relative_lrs", 0.01)
    assert solver.WARMUP_EPOCHS == 0
    if name.endswith("_300k"):
        assert (49 if is_k600 else 80) == solver.MAX_EPOCH
        assert len(solver.STEPS) == len(solver.LRS) == 3
    else:
        assert solver.STEPS == [0, 44, 88, 118]
        assert solver.LRS == [1, 0.1, 0.01, 0.001]
        assert solver.MAX_EPOCH == 118


@pytest.mark.parametrize(
    ("folder", "videos", "epochs"), [("Kinetics", 240_000, 80), ("Kinetics600", 392_000, 49)]
)
def test_the_schedule_of_the_paper(folder: str, videos: int, epochs: int) -> None:
    """300,000 iterations of 64 clips: the rate falls at the iterations 150,000 and 250,000."""
    cfg = load_cfg(CONFIGS / folder / "OCT_I3D_8x8_IN1K_300k.yaml")
    schedule, per_epoch = build_schedule(cfg), videos // 64

    def rate(iteration: int) -> float:
        epoch, step = divmod(iteration, per_epoch)
        return schedule(epoch + step / per_epoch)

    falls = [(0, 0.01), (149_999, 0.01), (150_000, 1e-3), (249_999, 1e-3), (250_000, 1e-4)]
    for iteration, wanted in [*falls, (299_999, 1e-4)]:
        assert rate(iteration) == pytest.approx(wanted), iteration
    assert epochs == cfg.SOLVER.MAX_EPOCH
    assert 0 <= epochs * per_epoch - 300_000 < 0.001 * 300_000


# PySlowFast's own files of these models: their keys, written anew.
COMMON: dict[str, Any] = {
    "TRAIN": {
        "ENABLE": True, "DATASET": "kinetics", "BATCH_SIZE": 64, "EVAL_PERIOD": 10,
        "CHECKPOINT_PERIOD": 1, "AUTO_RESUME": True,
    },
    "DATA": {
        "TRAIN_JITTER_SCALES": [256, 320], "TRAIN_CROP_SIZE": 224, "TEST_CROP_SIZE": 256,
        "PATH_TO_DATA_DIR": "/data/kinetics",
    },
    "RESNET": {
        "ZERO_INIT_FINAL_BN": True, "WIDTH_PER_GROUP": 64, "NUM_GROUPS": 1, "DEPTH": 50,
        "TRANS_FUNC": "bottleneck_transform", "STRIDE_1X1": False,
    },
    "BN": {
        "USE_PRECISE_STATS": True, "NUM_BATCHES_PRECISE": 200, "MOMENTUM": 0.1,
        "WEIGHT_DECAY": 0.0,
    },
    "SOLVER": {"MOMENTUM": 0.9, "WEIGHT_DECAY": 1e-4, "OPTIMIZING_METHOD": "sgd"},
    "MODEL": {"NUM_CLASSES": 400, "LOSS_FUNC": "cross_entropy", "DROPOUT_RATE": 0.5},
    "TEST": {"ENABLE": True, "DATASET": "kinetics", "BATCH_SIZE": 64},
    "DATA_LOADER": {"NUM_WORKERS": 8, "PIN_MEMORY": True},
    "NUM_GPUS": 8, "NUM_SHARDS": 1, "RNG_SEED": 0, "OUTPUT_DIR": ".",
}  # fmt: skip
SCRATCH = {
    "BASE_LR": 0.1, "LR_POLICY": "cosine", "MAX_EPOCH": 196, "WARMUP_EPOCHS": 34,
    "WARMUP_START_LR": 0.01,
}  # fmt: skip
SCALED = {**SCRATCH, "BASE_LR_SCALE_NUM_SHARDS": True}
IN1K = {
    "BASE_LR": 0.01, "LR_POLICY": "steps_with_relative_lrs", "STEPS": [0, 44, 88, 118],
    "LRS": [1, 0.1, 0.01, 0.001], "MAX_EPOCH": 118,
}  # fmt: skip


def single(arch: str, frames: int, rate: int, nln: bool, solver: dict[str, Any]) -> dict:
    location = [[[]], [[1, 3]], [[1, 3, 5]], [[]]] if nln else [[[]], [[]], [[]], [[]]]
    start = {"CHECKPOINT_FILE_PATH": "r50.pyth", "CHECKPOINT_INFLATE": True}
    return {
        "DATA": {"NUM_FRAMES": frames, "SAMPLING_RATE": rate, "INPUT_CHANNEL_NUM": [3]},
        "RESNET": {"NUM_BLOCK_TEMP_KERNEL": [[3], [4], [6], [3]]},
        "NONLOCAL": {
            "LOCATION": location, "GROUP": [[1], [1], [1], [1]], "INSTANTIATION": "softmax",
        },
        "MODEL": {"ARCH": arch, "MODEL_NAME": "ResNet"},
        "SOLVER": solver,
        "TRAIN": start if solver is IN1K else {},
    }  # fmt: skip


def double(ratio: int, kernel: int, nln: bool = False, **solver: Any) -> dict:
    location = [[[], []], [[1, 3], []], [[1, 3, 5], []], [[], []]] if nln else [[[], []]] * 4
    return {
        "DATA": {"NUM_FRAMES": 32, "SAMPLING_RATE": 2, "INPUT_CHANNEL_NUM": [3, 3]},
        "SLOWFAST": {
            "ALPHA": ratio, "BETA_INV": 8, "FUSION_CONV_CHANNEL_RATIO": 2,
            "FUSION_KERNEL_SZ": kernel,
        },
        "RESNET": {
            "NUM_BLOCK_TEMP_KERNEL": [[3, 3], [4, 4], [6, 6], [3, 3]],
            "SPATIAL_STRIDES": [[1, 1], [2, 2], [2, 2], [2, 2]],
            "SPATIAL_DILATIONS": [[1, 1], [1, 1], [1, 1], [1, 1]],
        },
        "NONLOCAL": {
            "LOCATION": location, "GROUP": [[1, 1]] * 4, "INSTANTIATION": "dot_product",
        },
        "MODEL": {"ARCH": "slowfast", "MODEL_NAME": "SlowFast"},
        "SOLVER": {**SCRATCH, **solver},
    }  # fmt: skip


STEPWISE = {
    "LR_POLICY": "steps_with_relative_lrs", "LRS": [1, 0.1, 0.01, 0.001, 0.0001, 0.00001],
    "STEPS": [0, 94, 154, 196], "MAX_EPOCH": 239,
}  # fmt: skip
PYSLOWFAST = {
    **{
        f"{arch}{'_NLN' * nln}_8x8_R50{suffix}": single(arch.lower(), 8, 8, nln, solver)
        for (arch, nln), (suffix, solver) in product(
            product(("C2D", "I3D", "SLOW"), (False, True)), (("", SCRATCH), ("_IN1K", IN1K))
        )
    },
    "C2D_NOPOOL_8x8_R50": single("slow_c2d", 8, 8, False, SCRATCH),
    "R2PLUS1D_16x4_R50": single("r2plus1d", 16, 4, False, SCALED),
    "CSN_32x2_R101": {
        **(_csn := single("csn", 32, 2, False, SCALED)),
        "RESNET": {**_csn["RESNET"], "DEPTH": 101},
    },
    "SLOW_4x16_R50": single("slow", 4, 16, False, SCRATCH),
    "SLOWFAST_4x16_R50": double(8, 5),
    "SLOWFAST_8x8_R50": double(4, 7),
    "SLOWFAST_8x8_R50_stepwise": double(4, 7, **STEPWISE),
    "SLOWFAST_NLN_8x8_R50": double(4, 5, nln=True),
}


@pytest.mark.parametrize("name", PYSLOWFAST)
def test_files_of_pyslowfast_load_unchanged(name: str, tmp_path: Path) -> None:
    """The file gives the values that it holds, a network, and what our file of the name gives."""
    own = PYSLOWFAST[name]
    text = {
        key: {**value, **own.get(key, {})} if isinstance(value, dict) else value
        for key, value in COMMON.items()
    }
    text |= {key: value for key, value in own.items() if key not in COMMON}
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(text))
    leaves = leaf_values(load_cfg(path))
    for section, keys in text.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            assert leaves[f"{section}.{key}"] == value, key
    with torch.device("meta"):
        build_model(load_cfg(path))
    ours = CONFIGS / "Kinetics" / path.name
    if ours.is_file():
        same = {
            key: value
            for key, value in leaf_values(load_cfg(ours)).items()
            if key not in ("OUTPUT_DIR", "DATA.PATH_TO_DATA_DIR", "TRAIN.CHECKPOINT_FILE_PATH")
            and key != "TRAIN.KEEP_CHECKPOINTS"  # which PySlowFast does not have
            and not (key == "NONLOCAL.INSTANTIATION" and "NLN" not in name)
        }
        assert {key: leaves[key] for key in same} == same


@pytest.mark.parametrize(
    ("model", "arch"),
    [
        ("{ARCH: c2d, MODEL_NAME: ResNet_nopool}", "slow_c2d"),  # as PySlowFast's file has it
        ("{ARCH: c2d_nopool}", "slow_c2d"),  # as the file had it at first
        ("{ARCH: slow_c2d, MODEL_NAME: ResNet}", "slow_c2d"),
        ("{ARCH: i3d, MODEL_NAME: ResNet_nopool}", "slow_i3d"),
        ("{ARCH: i3d_nopool, MODEL_NAME: ResNet}", "slow_i3d"),
        ("{ARCH: slow, MODEL_NAME: ResNet_nopool}", "slow"),
    ],
)
def test_names_of_networks_without_the_pool_in_time(model: str, arch: str, tmp_path: Path) -> None:
    path = tmp_path / "nopool.yaml"
    path.write_text(f"MODEL: {model}")
    cfg = load_cfg(path)
    assert (arch, "ResNet") == (cfg.MODEL.ARCH, cfg.MODEL.MODEL_NAME)
    with torch.device("meta"):
        network = build_model(cfg)
    assert network.spec.head_window[0] == cfg.DATA.NUM_FRAMES
