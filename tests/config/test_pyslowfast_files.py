"""Configuration files of PySlowFast: whole dumps, its defaults, and its names of networks."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from octvideo.config import (
    ConfigError,
    cfg_of_checkpoint,
    clip_counts_of_test,
    dump,
    get_cfg,
    load_cfg,
)
from octvideo.config.keys import leaf_values
from octvideo.data.protocol import build_protocol
from octvideo.models import build_model
from support import ROOT

DUMP = Path(__file__).with_name("pyslowfast_defaults.yaml")
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "peer.yaml"
        path.write_text(text)
        return path

    return write


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def test_a_whole_dump_loads_and_changes_nothing() -> None:
    """Every default of PySlowFast is ours, but for its decoder and the noise of still images."""
    theirs = leaves(yaml.safe_load(DUMP.read_text()))
    ours, plain = leaf_values(load_cfg(DUMP)), leaf_values(load_cfg())
    both = theirs.keys() & plain.keys()
    assert len(both) > 120
    assert {key for key in both if ours[key] != plain[key]} == {"DATA.TRAIN_PCA_EIGVAL"}
    differ = {key for key in both if theirs[key] != plain[key] and theirs[key] != list(plain[key])}
    assert differ == {"DATA.TRAIN_PCA_EIGVAL", "DATA.DECODING_BACKEND"}


def test_without_an_architecture_it_is_slowfast(write: Write) -> None:
    """As in PySlowFast; its first files have MODEL.ARCH alone."""
    cfg = load_cfg(write("DATA: {NUM_FRAMES: 32, SAMPLING_RATE: 2}"))
    assert (cfg.MODEL.ARCH, cfg.MODEL.MODEL_NAME) == ("slowfast", "SlowFast")
    with torch.device("meta"):
        assert "s1_fuse.conv_f2s.weight" in build_model(cfg).state_dict()
    for arch, name in (("i3d", "ResNet"), ("slowonly", "ResNet"), ("slowfast", "SlowFast")):
        assert name == load_cfg(write(f"MODEL: {{ARCH: {arch}}}")).MODEL.MODEL_NAME


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("{MODEL_NAME: ResNet}", "MODEL.MODEL_NAME"),
        ("{ARCH: slowfast, MODEL_NAME: ResNet}", "MODEL.MODEL_NAME"),
        ("{ARCH: i3d, MODEL_NAME: SlowFast}", "MODEL.MODEL_NAME"),
    ],
)
def test_names_that_contradict_each_other_are_refused(write: Write, model: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_cfg(write(f"MODEL: {model}"))
    (problem,) = caught.value.problems
    assert f"{key} " in problem
    assert "set " in problem


IMAGENET = """
TRAIN: {ENABLE: True, DATASET: imagenet, BATCH_SIZE: 256}
DATA:
  MEAN: [0.485, 0.456, 0.406]
  STD: [0.229, 0.224, 0.225]
  NUM_FRAMES: 1
  TRAIN_CROP_SIZE: 224
  TEST_CROP_SIZE: 256
  INPUT_CHANNEL_NUM: [3]
  TRAIN_JITTER_SCALES_RELATIVE: [0.08, 1.0]
  TRAIN_JITTER_ASPECT_RELATIVE: [0.75, 1.3333333333333333]
RESNET: {ZERO_INIT_FINAL_BN: True, DEPTH: %d, NUM_BLOCK_TEMP_KERNEL: [[3], [4], [6], [3]]}
NONLOCAL: {INSTANTIATION: softmax}
SOLVER:
  LR_POLICY: steps_with_relative_lrs
  MAX_EPOCH: 100
  STEPS: [0, 30, 60, 90]
  LRS: [1, 0.1, 0.01, 0.001]
MODEL: {NUM_CLASSES: 1000, ARCH: 2d, MODEL_NAME: ResNet}
TEST: {ENABLE: True, DATASET: imagenet, BATCH_SIZE: 256}
"""


@pytest.mark.parametrize(("depth", "millions"), [(50, 25.557), (101, 44.549)])
def test_its_networks_of_images(
    write: Write, caplog: pytest.LogCaptureFixture, depth: int, millions: float
) -> None:
    """ImageNet/RES_R50: the ResNet of everybody, tested in 224 of a short side of 256."""
    caplog.set_level(logging.WARNING, "octvideo")
    cfg = load_cfg(write(IMAGENET % depth))
    assert f"ResNet is read as resnet{depth}_v1b" in caplog.text
    assert "RESNET.DEPTH" not in caplog.text
    with torch.device("meta"):
        model = build_model(cfg)
    parameters = sum(p.numel() for p in model.parameters())
    assert round(parameters / 1e6, 3) == millions
    assert model.spec.zero_init_final_bn
    crop = build_protocol(cfg).centre_crop
    assert (crop.crop_size, crop.crop_size / crop.ratio) == (224, 256)
    # With AUG.ENABLE its tests resize to 8/7 of the crop, as ours.
    cfg = load_cfg(write(IMAGENET % depth + "AUG: {ENABLE: True}"))
    assert (cfg.DATA.TEST_CROP_SIZE, cfg.DATA.IN_VAL_CROP_RATIO) == (256, 0.875)


def test_a_network_of_images_that_is_not_here_is_refused(write: Write) -> None:
    for text in (IMAGENET % 18, IMAGENET % 50 + "RESNET.NUM_GROUPS: 32\n"):
        with pytest.raises(ConfigError, match="ResNet is for videos"):
            load_cfg(write(text))


@pytest.mark.parametrize(
    ("test", "counts"),
    [
        ("{}", [10]),
        ("{NUM_ENSEMBLE_VIEWS: 4}", [4]),
        ("{NUM_ENSEMBLE_VIEWS: -1}", [1, 3, 5, 7, 10]),
        ("{NUM_TEMPORAL_CLIPS: [2, 5]}", [2, 5]),
        ("{NUM_TEMPORAL_CLIPS: [5], NUM_ENSEMBLE_VIEWS: 3}", [5]),
    ],
)
def test_numbers_of_clips(write: Write, test: str, counts: list[int]) -> None:
    cfg = load_cfg(write(f"TEST: {test}"))
    assert clip_counts_of_test(cfg) == counts
    assert build_protocol(cfg).num_clips == counts[-1]


@pytest.mark.parametrize("test", ["{NUM_ENSEMBLE_VIEWS: 0}", "{NUM_TEMPORAL_CLIPS: [3, 0]}"])
def test_no_clips_are_refused(write: Write, test: str) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        load_cfg(write(f"TEST: {test}"))


def test_the_page_of_differences_speaks_of_keys_that_there_are() -> None:
    page = (ROOT / "docs" / "DIFFERENCES.md").read_text()
    keys = set(re.findall(r"`([A-Z][A-Z_]+\.[A-Za-z0-9_]+)", page))
    known = leaves(yaml.safe_load(DUMP.read_text())).keys() | leaf_values(get_cfg()).keys()
    assert len(keys) > 40
    assert keys <= known
    for file in ("README.md", "docs/TRAINING.md"):
        assert "DIFFERENCES.md)" in (ROOT / file).read_text()


def test_the_configuration_in_a_checkpoint_is_read_alike() -> None:
    text = DUMP.read_text()
    assert cfg_of_checkpoint(text) == load_cfg(DUMP)
    without_pool = text.replace("ARCH: slowfast,", "ARCH: c2d,").replace(
        "MODEL_NAME: SlowFast", "MODEL_NAME: ResNet_nopool"
    )
    model = cfg_of_checkpoint(without_pool).MODEL
    assert (model.ARCH, model.MODEL_NAME) == ("slow_c2d", "ResNet")


TRAINED = [
    *("ImageNet/OCT_RESNET50_A0.125", "Synthetic/RESNET26", "Kinetics/SLOWFAST_4x16_R50"),
    *("Kinetics/C2D_NOPOOL_8x8_R50", "Kinetics/OCT_I3D_8x8"),
]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("opts", [[], ["RNG_SEED", 3]])
def test_the_configuration_in_a_checkpoint_is_that_of_its_run(name: str, opts: list[Any]) -> None:
    path = ROOT / f"configs/{name}.yaml"
    assert cfg_of_checkpoint(dump(load_cfg(path)), opts) == load_cfg(path, opts)


def test_mistakes_in_options_beside_a_checkpoint() -> None:
    text = "MODEL: {ARCH: i3d, NUM_CLASSES: many, DEPTH: 3}"  # of another project, left out
    assert cfg_of_checkpoint(text).MODEL.ARCH == "i3d"
    with pytest.raises(ConfigError, match=r"command line: MODEL\.NUM_CLASSES") as error:
        cfg_of_checkpoint(text, ["MODEL.NUM_CLASSES", "few"])
    assert len(error.value.problems) == 1
