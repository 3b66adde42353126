"""The whole way with pictures: training, validation, test and resuming, on the video trainer."""

import csv
import json
import re
from pathlib import Path

import pytest

from octvideo.config import load_cfg
from octvideo.data.synthetic.images import CLASSES, make_synthetic_images
from octvideo.engine import load_checkpoint, run_test, run_train
from support import ROOT


@pytest.mark.timeout(120)
def test_a_run_on_pictures(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_synthetic_images(data, num_train=18, num_val=7)
    bad = data / "val" / CLASSES[0] / "00000.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    cfg = load_cfg(
        ROOT / "configs" / "Synthetic" / "OCT_RESNET26.yaml",
        [
            *("DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(tmp_path / "run")),
            *("TRAIN.BATCH_SIZE", 6, "TEST.BATCH_SIZE", 4, "RESNET.WIDTH_PER_GROUP", 4),
            *("SOLVER.MAX_EPOCH", 1, "SOLVER.WARMUP_EPOCHS", 0, "DATA.TRAIN_CROP_SIZE", 32),
            *("DATA.TEST_CROP_SIZE", 40, "DATA_LOADER.NUM_WORKERS", 0),
            *("MIXUP.ENABLE", True, "MIXUP.CUTMIX_ALPHA", 0.0, "EMA.ENABLE", True),
            *("MODEL.LOSS_FUNC", "soft_cross_entropy", "DATA.MAX_BAD_FRACTION", 0.5),
        ],
    )
    path = run_train(cfg)
    assert load_checkpoint(path)["class_names"] == [*CLASSES]
    result = run_test(cfg, path)
    assert (result["num_videos"], result["num_missing"], result["num_views"]) == (6, 1, 1)
    log = (tmp_path / "run" / "stdout.log").read_text()
    assert re.search(r"1 view: top-1 .* of 6 images; 1 missing", log)
    lines = (tmp_path / "run" / "json_stats.log").read_text().splitlines()
    stats = [json.loads(line.partition("json_stats: ")[2]) for line in lines]
    [validation] = [s for s in stats if s["_type"] == "val_epoch"]
    assert validation["num_videos"] == 6
    # The test sees the pictures of the validation, with the same weights.
    assert result["top1_acc"] == pytest.approx(100 - validation["top1_err"], abs=0.01)
    with open(tmp_path / "run" / "bad_videos.csv") as file:
        assert [row[0] for row in csv.reader(file)][1:] == [str(bad)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recipe_learns_the_set(tmp_path: Path) -> None:
    """DATASET.md has the accuracy that was seen, 97.75 %; the vanilla twin came to 95.25."""
    data = tmp_path / "data"
    make_synthetic_images(data)
    paths = ("DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(tmp_path / "run"))
    cfg = load_cfg(
        ROOT / "configs" / "Synthetic" / "OCT_RESNET26.yaml",
        [*paths, "DATA_LOADER.NUM_WORKERS", 0],
    )
    assert run_test(cfg, run_train(cfg))["top1_acc"] >= 90
