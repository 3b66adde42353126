"""Numbers that must not change: multiply-adds, parameters, names and shapes of the state dict."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from octvideo import create_model
from octvideo.config import load_cfg
from octvideo.models import build_model, named_spec
from octvideo.models.build import with_options
from octvideo.models.from_cfg import spec_of
from octvideo.utils.complexity import count
from support import ROOT

GOLDEN = ROOT / "tests" / "golden"
MULTIPLY_ADDS = json.loads((GOLDEN / "multiply_adds.json").read_text())
FINGERPRINTS = json.loads((GOLDEN / "state_dict_fingerprints.json").read_text())
NAMES = {
    "C2D_8x8_R50": "c2d_r50",
    "C2D_NLN_8x8_R50": "c2d_nln_r50",
    "I3D_8x8_R50": "i3d_r50",
    "I3D_NLN_8x8_R50": "i3d_nln_r50",
    "SLOW_4x16_R50": "slow_4x16_r50",
    "SLOW_8x8_R50": "slow_r50",
    "SLOWFAST_4x16_R50": "slowfast_4x16_r50",
    "SLOWFAST_8x8_R50": "slowfast_r50",
    "SLOWFAST_NLN_8x8_R50": "slowfast_nln_r50",
}


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def fingerprint(shapes: dict[str, list[int]]) -> dict[str, Any]:
    text = "\n".join(f"{key} {tuple(shape)}" for key, shape in sorted(shapes.items()))
    return {"entries": len(shapes), "sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[pytest.mark.slow] * (row["alpha"] not in (0, 0.25)))
        for row in MULTIPLY_ADDS
        if row["alpha"] or row["stages"] == [2, 3, 4, 5]  # 0: nowhere
    ],
    ids=lambda row: f"{row['model']}-{row['alpha']}-{row['stages'][-1]}",
)
def test_multiply_adds(row: dict[str, Any]) -> None:
    """The exact integers of one clip at 224x224 (or crop_size), 400 classes, and the parameters."""
    side = row.get("crop_size", 224)
    model = on_meta(
        row["model"],
        octave_alpha=row["alpha"],
        octave_stages=tuple(row["stages"]),
        crop_size=side,
    )
    cost = count(model, (1, 3, model.spec.num_frames, side, side))
    assert (cost.macs, cost.params) == (row["macs"], row["params"])


# Parameters without the last layer: those of the 2D ResNets that everybody knows
# (11.69, 25.56 and 44.55 million with 1000 classes), as C2D has only 1x k x k kernels.
@pytest.mark.parametrize(
    ("name", "width", "params"),
    [
        ("c2d_r18", 512, 11_689_512 - 513_000),
        ("c2d_r50", 2048, 25_557_032 - 2_049_000),
        pytest.param("c2d_r101", 2048, 44_549_160 - 2_049_000, marks=pytest.mark.slow),
    ],
)
def test_c2d_has_the_parameters_of_the_2d_network(name: str, width: int, params: int) -> None:
    for alpha in (0.0, 0.5):
        model = on_meta(name, num_classes=10, octave_alpha=alpha)
        assert count(model).params == params + 10 * width + 10


@pytest.mark.parametrize(
    ("recipe", "alpha"),  # an octave non-local block has shapes of its own
    [
        pytest.param(recipe, alpha, marks=[pytest.mark.slow] * (alpha == 0.5))
        for recipe in NAMES
        for alpha in (0.0, 0.1, 0.5)
        if not (alpha and "NLN" in recipe)
    ],
)
def test_keys_and_shapes(recipe: str, alpha: float) -> None:
    for stages in ((2, 3, 4, 5), (2, 3, 4)) if alpha else ((),):
        model = on_meta(NAMES[recipe], octave_alpha=alpha, octave_stages=stages)
        assert fingerprint(shapes_of(model)) == FINGERPRINTS[recipe]


@pytest.mark.parametrize("recipe", NAMES)
def test_keys_and_shapes_in_full(recipe: str, shared: Path) -> None:
    golden = json.loads((shared / "data" / "pyslowfast" / "state_dict_keys.json").read_text())
    shapes = shapes_of(on_meta(NAMES[recipe]))
    assert shapes == golden[recipe]
    assert list(shapes) == list(golden[recipe])
    assert golden.keys() == NAMES.keys()
    assert fingerprint(golden[recipe]) == FINGERPRINTS[recipe]


@pytest.mark.parametrize(
    ("file", "name", "alpha", "stages"),
    [
        ("C2D_8x8_R50", "c2d_r50", 0.0, ()),
        ("I3D_8x8_R50", "i3d_r50", 0.0, ()),
        ("I3D_NLN_8x8_R50", "i3d_nln_r50", 0.0, ()),
        ("SLOWFAST_4x16_R50", "slowfast_4x16_r50", 0.0, ()),
        ("OCT_C2D_8x8", "c2d_r50", 0.1, (2, 3, 4, 5)),
        ("OCT_I3D_8x8", "i3d_r50", 0.1, (2, 3, 4, 5)),
        ("OCT_I3D_8x8_A0.2", "i3d_r50", 0.2, (2, 3, 4, 5)),
        ("OCT_I3D_8x8_A0.5", "i3d_r50", 0.5, (2, 3, 4, 5)),
        ("OCT_I3D_NLN_8x8", "i3d_nln_r50", 0.1, (2, 3, 4, 5)),
        ("OCT_SLOWFAST_4x16", "slowfast_4x16_r50", 0.1, (2, 3, 4, 5)),
        ("OCT_SLOWFAST_4x16_A0.2", "slowfast_4x16_r50", 0.2, (2, 3, 4, 5)),
    ],
)
def test_the_configurations_of_kinetics(
    file: str, name: str, alpha: float, stages: tuple[int, ...]
) -> None:
    """Their networks are those whose numbers stand above."""
    spec = spec_of(load_cfg(ROOT / "configs" / "Kinetics" / f"{file}.yaml"))
    octave = {"octave_alpha": alpha, "octave_stages": stages} if alpha else {}
    wanted = with_options(named_spec(name), **octave)
    # In every block, which PySlowFast's files say with a number.
    every_block = {"num_block_temp_kernel", "fast_num_block_temp_kernel"}
    assert not wanted.differences(spec, every_block)
    assert spec.num_block_temp_kernel in (None, spec.block_counts())
    assert (spec.num_frames, spec.num_classes) == (wanted.num_frames, wanted.num_classes)
    assert any(
        (row["model"], row["alpha"]) == (name, alpha) and (not alpha or row["stages"] == [*stages])
        for row in MULTIPLY_ADDS
    )


@pytest.mark.parametrize(
    ("file", "recipe", "macs"),
    [
        # 8 frames in the 2D ResNet-50 (4,087,136,256), and 400 classes
        ("C2D_NOPOOL_8x8_R50", "C2D_8x8_R50", 8 * 4_087_136_256 + 400 * 2048),
        ("OCT_I3D_8x8_IN1K", "I3D_8x8_R50", 25_780_849_924),
    ],
)
def test_configurations_without_a_name(file: str, recipe: str, macs: int) -> None:
    cfg = load_cfg(ROOT / "configs" / "Kinetics" / f"{file}.yaml")
    with torch.device("meta"):
        model = build_model(cfg)
    assert fingerprint(shapes_of(model)) == FINGERPRINTS[recipe]
    assert count(model, (1, 3, 8, 224, 224)).macs == macs
