import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from octvideo.data.synthetic.videos import make_synthetic
from studies import accuracy_cost
from studies.accuracy_cost import Network, bits, macs, networks, paired_difference, report, table
from support import ROOT


def line(network: str, seed: int, right: np.ndarray, cost: int, alpha: float = 0.0) -> dict:
    return {
        "network": network, "seed": seed, "alpha": alpha, "macs": cost, "clips": len(right),
        "test_top1": 100 * right.mean(), "right": np.packbits(right).tobytes().hex(),
    }  # fmt: skip


@pytest.mark.parametrize("clips", [8, 13])
def test_bits_come_back(clips: int) -> None:
    right = np.random.default_rng(0).random(clips) < 0.5
    np.testing.assert_array_equal(bits(line("vanilla", 0, right, 1)), right)


def test_interval_is_that_of_a_paired_difference() -> None:
    """Of many clips and equal seeds: the normal interval of the mean of the differences."""
    rng = np.random.default_rng(1)
    ours, theirs = rng.random(2000) < 0.8, rng.random(2000) < 0.75
    seeds = dict.fromkeys(range(3), ours), dict.fromkeys(range(3), theirs)
    mean, low, high = paired_difference(*seeds)
    gain = 100 * (ours.astype(float) - theirs)
    assert mean == pytest.approx(gain.mean())
    half = 1.96 * gain.std() / math.sqrt(len(gain))
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert (high + low) / 2 == pytest.approx(mean, abs=0.2)


def test_only_seeds_of_both_count() -> None:
    yes, no = np.ones(10, bool), np.zeros(10, bool)
    assert paired_difference({0: yes, 1: yes}, {1: no, 2: yes}) == (100, 100, 100)
    with pytest.raises(ValueError, match="no seed"):
        paired_difference({0: yes}, {1: yes})


def test_report_pairs_each_network_with_its_rivals() -> None:
    few, many = np.arange(100) < 60, np.arange(100) < 80
    lines = [
        *(line("vanilla", seed, many, 100) for seed in range(3)),
        *(line("octave 0.25", seed, many, 75, 0.25) for seed in range(3)),
        *(line("narrowed 0.25", seed, few, 76, 0.25) for seed in range(3)),
        {"network": "octave 0.25", "measured": "inference", "ratio": 0.8, "ms": 3.0},
        {"network": "vanilla", "measured": "inference", "ratio": 1.0, "ms": 4.0},
    ]
    rows = {row["network"]: row for row in report(lines)}
    assert rows["octave 0.25"]["macs"] == 0.75
    assert rows["octave 0.25"]["inference"] == 0.8
    assert rows["octave 0.25"]["seeds"] == 3
    assert rows["octave 0.25"]["against_vanilla"] == [0, 0, 0]
    assert rows["octave 0.25"]["against_narrowed"][0] == pytest.approx(20)
    assert rows["narrowed 0.25"]["against_vanilla"][2] < 0
    assert "against_narrowed" not in rows["narrowed 0.25"]
    text = table(list(rows.values())).splitlines()
    assert len(text) == 5
    assert "not different" in text[3]
    assert text[3].rstrip(" |").endswith("better")
    assert "worse" in text[4]
    rows["octave 0.25"]["seeds"] = 2
    assert not {"better", "worse", "not different"} & set(
        re.split(": | \\| ", table([rows["octave 0.25"]]))
    )


@pytest.mark.slow
def test_rivals_cost_what_the_octave_network_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_cost, "ALPHAS", (0.5,))
    cfg, opts = "Synthetic/I3D", ["RESNET.WIDTH_PER_GROUP", "32", "DATA.TRAIN_CROP_SIZE", "64"]
    found = {network.name: network for network in networks(cfg, opts)}
    cost = {name: macs(cfg, (*opts, *n.opts)) for name, n in found.items() if not n.variant}
    assert len(found) == 1 + 4 + 1 + 4
    assert cost["narrowed 0.5"] == pytest.approx(cost["octave 0.5"], rel=0.05)
    assert cost["octave 0.5"] < cost["octave 0.5, default placement"] < cost["vanilla"]
    assert cost["octave 0.5"] < cost["widened 0.25"] > cost["vanilla"] * 0.9


def test_closest_by_bisection() -> None:
    values = range(10, 100)
    for wanted in (50, 400, 441, 450, 5000, 99999):
        expected = min(values, key=lambda v: abs(v * v - wanted))
        assert accuracy_cost.closest(values, lambda v: v * v, wanted) == expected


@pytest.mark.slow
def test_a_run_gives_a_line_and_is_not_made_again(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "set", num_train=16, num_val=8, num_test=8, short_side=(32, 32))
    lines = tmp_path / "lines.jsonl"
    command = [
        sys.executable, "-m", "studies.accuracy_cost", "run", "Synthetic/I3D", "--lines", lines,
        "--seeds", "3", "--only", "vanilla", "octave 0.25", "no_h2l", "--runs", tmp_path / "runs",
        "--opts", "DATA.PATH_TO_DATA_DIR", tmp_path / "set", "SOLVER.MAX_EPOCH", "1",
        "DATA_LOADER.NUM_WORKERS", "0", "TENSORBOARD.ENABLE", "False",
        "DATA.TRAIN_JITTER_SCALES", "[32,32]", "DATA.TRAIN_CROP_SIZE", "32",
        "DATA.TEST_CROP_SIZE", "32", "TEST.NUM_ENSEMBLE_VIEWS", "1", "TEST.NUM_SPATIAL_CROPS", "1",
    ]  # fmt: skip
    for _ in range(2):
        subprocess.run([*map(str, command)], check=True, cwd=ROOT, timeout=300)
    found = [json.loads(text) for text in lines.read_text().splitlines()]
    assert [n["network"] for n in found] == ["vanilla", "octave 0.25", "no_h2l"]
    for entry in found:
        assert entry["test_top1"] == 100 * bits(entry).mean()
        assert entry["clips"] == 8
        assert {"commit", "command", "time", "seed", "val_top1", "params"} <= entry.keys()
    assert found[0]["macs"] > found[1]["macs"]
    rows = report(found)
    assert [row["network"] for row in rows] == [n["network"] for n in found]
    accuracy_cost.picture(rows, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert len(image.getcolors(1 << 20)) > 20  # curves, not an empty page


def test_commands_name_seed_folder_and_variant() -> None:
    network = Network("max", "variant", 0.25, ("OCTAVE.ENABLE", "True"), ("--downsample", "max"))
    words = network.command("Synthetic/I3D", 7, Path("out"), ["SOLVER.MAX_EPOCH", "2"])
    assert words[:4] == ["-m", "studies.ablation", "--downsample", "max"]
    assert words[words.index("RNG_SEED") + 1] == "7"
    assert words[words.index("OUTPUT_DIR") + 1] == "out"
    assert words[words.index("OCTAVE.ENABLE") + 1] == "True"
    assert words[words.index("SOLVER.MAX_EPOCH") + 1] == "2"
