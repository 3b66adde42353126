"""The configurations of the paper's image networks: what they build costs what the paper counts."""

import re
from pathlib import Path

import pytest
import torch

from octvideo.config import Processes, describe_scaling, load_cfg
from octvideo.engine.optim import build_schedule
from octvideo.models import build_model
from octvideo.utils.complexity import count
from support import ROOT

FOLDER = ROOT / "configs" / "ImageNet"
PARTS = ("base", "ablation", "others", "mobilenet", "label_smoothing", "mixup")
RECIPES = {path.stem: path for path in FOLDER.glob("*.yaml") if path.stem not in PARTS}

# alpha -> multiply-adds in billions, of the authors' code (Tables 2 to 5).
COSTS: dict[str, dict[float, float]] = {
    "RESNET26": {0: 2.342, 0.125: 2.087, 0.25: 1.858, 0.5: 1.480, 0.75: 1.208},
    "RESNET50": {0: 4.089, 0.125: 3.565, 0.25: 3.104, 0.5: 2.367, 0.75: 1.880},
    "RESNET101": {0: 7.801, 0.125: 6.625, 0.25: 5.598, 0.5: 3.991},
    "RESNET200": {0: 15.008, 0.125: 12.564, 0.25: 10.439, 0.5: 7.144},
    "RESNEXT50": {0: 4.231, 0.25: 3.171, 0.5: 2.387, 0.75: 1.877},
    "RESNEXT101": {0: 7.970, 0.25: 5.684, 0.5: 4.023},
    "SE_RESNET50": {0: 4.092, 0.125: 3.568, 0.25: 3.106, 0.5: 2.370, 0.75: 1.883},
    "DENSENET121": {0: 2.834, 0.125: 2.398, 0.25: 2.017},
    "GLORE_RESNET50": {0: 5.162, 0.5: 3.151},
    "MOBILENET_V1_075": {0: 0.3254, 0.375: 0.2114},
    "MOBILENET_V1_100": {0.5: 0.3182},
    "MOBILENET_V2_100": {0.375: 0.2540},
    "MOBILENET_V2_1125": {0.5: 0.2928},
    "RESNET152": {0.125: 10.82},
    "SE_RESNET152": {0.125: 10.84},
}
# In a quick run, a row of each network that is not of the deepest: the others differ in a number.
QUICK = ("RESNET50", *("OCT_RESNET26_A0.25", "OCT_RESNEXT50_A0.5", "OCT_SE_RESNET50_A0.25"),
         "OCT_DENSENET121_A0.25", "OCT_GLORE_RESNET50_A0.5", "OCT_MOBILENET_V1_075_A0.375",
         "OCT_MOBILENET_V2_1125_A0.5")  # fmt: skip
ROWS = [
    (f"OCT_{name}_A{alpha:g}" if alpha else name, cost)
    for name, costs in COSTS.items()
    for alpha, cost in costs.items()
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "cost"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[0] not in QUICK)) for row in ROWS],
    ids=[name for name, _ in ROWS],
)
def test_every_row_of_the_tables_has_its_cost(name: str, cost: float) -> None:
    with torch.device("meta"):
        model = build_model(load_cfg(RECIPES[name]))
    found = count(model, (1, 3, 224, 224)).macs / 1e9
    assert found == pytest.approx(cost, rel=0.01)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_its_name_says(name: str) -> None:
    cfg = load_cfg(RECIPES[name])
    is_test = name.endswith("_320")
    alpha = re.search(r"_A(0\.\d+)", name)
    assert cfg.OCTAVE.ENABLE is name.startswith("OCT_") is bool(alpha)
    if alpha:
        assert (float(alpha[1]), [2, 3, 4]) == (cfg.OCTAVE.ALPHA, cfg.OCTAVE.STAGES)
    assert Path(cfg.OUTPUT_DIR) == Path("runs/ImageNet") / name.removesuffix("_320")
    assert ((not is_test), 320 if is_test else 224) == (cfg.TRAIN.ENABLE, cfg.DATA.TEST_CROP_SIZE)
    assert (cfg.TRAIN.DATASET, cfg.TEST.DATASET, cfg.MODEL.ARCH) == ("imagenet", "imagenet", "2d")
    smooth = "V2" in name or "152" in name
    assert cfg.MIXUP.ENABLE is smooth
    assert (cfg.MIXUP.ALPHA if smooth else 0.0) == (0.2 if "152" in name else 0.0)
    assert not smooth or (cfg.MIXUP.LABEL_SMOOTH_VALUE, cfg.MIXUP.CUTMIX_ALPHA) == (0.1, 0.0)
    schedule = build_schedule(cfg)
    assert (schedule(0), schedule(5)) == (0, pytest.approx(0.4, rel=0.01))
    assert schedule(cfg.SOLVER.MAX_EPOCH) == pytest.approx(0)
    assert cfg.TRAIN.BATCH_SIZE == 1024


@pytest.mark.parametrize("name", ["RESNET50", "OCT_RESNET152_A0.125", "MOBILENET_V2_100"])
def test_the_rate_is_that_of_the_linear_rule(name: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_cfg(RECIPES[name])
    line, warning = describe_scaling(cfg, Processes.of(cfg))
    assert "128 images each" in line
    assert warning is None
    assert not caplog.records  # no setting is ignored
