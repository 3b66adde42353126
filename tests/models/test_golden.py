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
from octvideo.models import build_model
from octvideo.utils.complexity import count
from support import ROOT

GOLDEN = ROOT / "tests" / "golden"
MULTIPLY_ADDS = json.loads((GOLDEN / "multiply_adds.json").read_text())
FINGERPRINTS = json.loads((GOLDEN / "state_dict_fingerprints.json").read_text())
NAMES = {"C2D_8x8_R50": "c2d_r50", "I3D_8x8_R50": "i3d_r50"}


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def fingerprint(shapes: dict[str, list[int]]) -> dict[str, Any]:
    text = "\n".join(f"{key} {tuple(shape)}" for key, shape in sorted(shapes.items()))
    return {"entries": len(shapes), "sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize(
    "row", MULTIPLY_ADDS, ids=lambda row: f"{row['model']}-{row['alpha']}-{row['stages'][-1]}"
)
def test_multiply_adds(row: dict[str, Any]) -> None:
    """The exact integers of one 224x224 clip of 8 frames, 400 classes, and the parameters."""
    model = on_meta(row["model"], octave_alpha=row["alpha"], octave_stages=tuple(row["stages"]))
    cost = count(model, (1, 3, 8, 224, 224))
    assert (cost.macs, cost.params) == (row["macs"], row["params"])


# Parameters without the last layer: those of the 2D ResNets that everybody knows
# (11.69, 25.56 and 44.55 million with 1000 classes), as C2D has only 1x k x k kernels.
@pytest.mark.parametrize(
    ("name", "width", "params"),
    [
        ("c2d_r18", 512, 11_689_512 - 513_000),
        ("c2d_r50", 2048, 25_557_032 - 2_049_000),
        ("c2d_r101", 2048, 44_549_160 - 2_049_000),
    ],
)
def test_c2d_has_the_parameters_of_the_2d_network(name: str, width: int, params: int) -> None:
    for alpha in (0.0, 0.1, 0.5):
        model = on_meta(name, num_classes=10, octave_alpha=alpha)
        assert count(model).params == params + 10 * width + 10


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.125, 0.5])
@pytest.mark.parametrize("recipe", NAMES)
def test_keys_and_shapes(recipe: str, alpha: float) -> None:
    for stages in ((2, 3, 4, 5), (2, 3, 4)):
        model = on_meta(NAMES[recipe], octave_alpha=alpha, octave_stages=stages)
        assert fingerprint(shapes_of(model)) == FINGERPRINTS[recipe]


@pytest.mark.parametrize("recipe", NAMES)
def test_keys_and_shapes_in_full(recipe: str, shared: Path) -> None:
    golden = json.loads((shared / "data" / "pyslowfast" / "state_dict_keys.json").read_text())
    assert shapes_of(on_meta(NAMES[recipe])) == golden[recipe]
    assert fingerprint(golden[recipe]) == FINGERPRINTS[recipe]


@pytest.mark.parametrize(
    ("file", "recipe", "macs"),
    [
        ("C2D_8x8_R50", "C2D_8x8_R50", 19_493_191_680),
        ("I3D_8x8_R50", "I3D_8x8_R50", 28_407_660_544),
        ("OCT_C2D_8x8", "C2D_8x8_R50", 17_183_188_068),
        ("OCT_I3D_8x8", "I3D_8x8_R50", 25_405_708_612),
    ],
)
def test_the_configurations_of_kinetics(file: str, recipe: str, macs: int) -> None:
    cfg = load_cfg(ROOT / "configs" / "Kinetics" / f"{file}.yaml")
    with torch.device("meta"):
        model = build_model(cfg)
    assert fingerprint(shapes_of(model)) == FINGERPRINTS[recipe]
    assert count(model, (1, 3, 8, 224, 224)).macs == macs
