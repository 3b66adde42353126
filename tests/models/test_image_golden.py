"""Multiply-adds and parameters of the paper's 2D residual networks."""

import re

import pytest
import torch
from torch import nn

from octvideo import create_model
from octvideo.utils.complexity import Complexity, count

# Section 5 of the specification: GMACs by alpha at 224 x 224, and million parameters.
SECTION_5 = {
    "resnet50_v2": ({0: 4.089, 0.125: 3.565, 0.25: 3.104, 0.5: 2.367, 0.75: 1.880}, 25.55),
    "resnet26_v2": ({0: 2.342, 0.125: 2.087, 0.25: 1.858, 0.5: 1.480, 0.75: 1.208}, 15.99),
    "resnet101_v2": ({0: 7.801, 0.125: 6.625, 0.25: 5.598, 0.5: 3.991}, None),
    "resnet200_v2": ({0: 15.007, 0.125: 12.564, 0.25: 10.439, 0.5: 7.144}, None),
    "resnext50_32x4d": ({0: 4.230, 0.25: 3.171, 0.5: 2.387, 0.75: 1.877}, 25.03),
    "resnext101_32x4d": ({0: 7.970, 0.25: 5.683, 0.5: 4.023}, 44.17),
    "se_resnet50": ({0: 4.092, 0.125: 3.568, 0.25: 3.106, 0.5: 2.370, 0.75: 1.883}, None),
    "glore_resnet50": ({0: 5.162, 0.5: 3.151}, 30.48),
    "resnet152_v1f": ({0.125: 10.82}, 60.22),
    "se_resnet152_v1e": ({0.125: 10.84}, 66.8),
}


def on_meta(name: str, alpha: float) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, octave_alpha=alpha)


def cost(name: str, alpha: float, side: int = 224) -> Complexity:
    return count(on_meta(name, alpha), (1, 3, side, side))


def is_more_of_the_same(name: str, alpha: float) -> bool:
    is_deep = re.search("101|152|200", name) is not None
    return is_deep or alpha not in (0.25, min(SECTION_5[name][0]))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        pytest.param(name, alpha, marks=[pytest.mark.slow] * is_more_of_the_same(name, alpha))
        for name, (row, _) in SECTION_5.items()
        for alpha in row
    ],
)
def test_multiply_adds_and_parameters(name: str, alpha: float) -> None:
    """Equal to as many digits as the specification has."""
    (row, params), ours = SECTION_5[name], cost(name, alpha)
    assert ours.macs / 1e9 == pytest.approx(row[alpha], abs=0.0051 if "152" in name else 0.00101)
    if params is not None:
        assert ours.params / 1e6 == pytest.approx(params, abs=0.051 if params == 66.8 else 0.0051)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_table_5_at_320() -> None:
    assert cost("resnet152_v1f", 0.125, 320).macs / 1e9 == pytest.approx(22.08, abs=0.0051)
    assert cost("se_resnet152_v1e", 0.125, 320).macs / 1e9 == pytest.approx(22.11, abs=0.0051)


# torchvision's networks have these parameters; C2D has them, too.
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("depth", "params"),
    [
        (50, 25_557_032),
        pytest.param(101, 44_549_160, marks=pytest.mark.slow),
        pytest.param(152, 60_192_808, marks=pytest.mark.slow),
    ],
)
def test_v1b_is_the_network_that_everybody_knows(depth: int, params: int) -> None:
    for alpha in (0.0, 0.25):
        assert count(on_meta(f"resnet{depth}_v1b", alpha), (1, 3, 64, 64)).params == params


def test_v1b_has_the_names_and_shapes_of_c2d() -> None:
    with torch.device("meta"):
        video = create_model("c2d_r50", 1000).state_dict()
    image = on_meta("resnet50_v1b", 0.0).state_dict()
    assert list(image) == list(video)
    for key, value in image.items():
        frames = (1,) if video[key].ndim == 5 else ()
        assert (*value.shape[:2], *frames, *value.shape[2:]) == video[key].shape, key
