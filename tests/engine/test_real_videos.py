"""The main job, as it is typed, on real clips of many codecs, sizes and rates, broken ones too."""

import json
import subprocess
import sys

import numpy as np
import pytest

from support import ROOT


@pytest.mark.slow  # a ResNet-50 at full size: minutes on a CPU
def test_oct_i3d_trains_an_epoch_and_tests_30_crops(shared, tmp_path):
    clips = shared / "videos"
    good = sorted((clips / "good").iterdir())
    odd = [clips / "odd" / name for name in ("rot90.mp4", "vfr.mp4", "odd444.mp4", "oneframe.mp4")]
    bad = sorted((clips / "bad").iterdir())
    broken = [clips / "bad" / name for name in ("zero.mp4", "text.mp4", "audio_only.mp4")]
    lists = {"train": [*good, *odd, *bad], "val": [good[0], *broken], "test": [good[2], *broken]}
    for split, paths in lists.items():
        rows = [f"{path} {number % 5}" for number, path in enumerate(paths)]
        (tmp_path / f"{split}.csv").write_text("\n".join(rows))
    run = tmp_path / "run"
    options = {
        "NUM_GPUS": 0,
        "TRAIN.BATCH_SIZE": 2,
        "SOLVER.MAX_EPOCH": 1,
        "SOLVER.WARMUP_EPOCHS": 0,
        "SOLVER.BASE_LR": 0.003,
        "BN.NUM_BATCHES_PRECISE": 2,
        "DATA.PATH_TO_DATA_DIR": tmp_path,
        "DATA.MAX_BAD_FRACTION": 0.75,
        "DATA_LOADER.NUM_WORKERS": 2,
        "OUTPUT_DIR": run,
        "TEST.BATCH_SIZE": 3,
        "TEST.SAVE_RESULTS_PATH": "scores.npz",
        "LOG_PERIOD": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, ROOT / "tools/run_net.py", "--cfg"]
    command += [ROOT / "configs/Kinetics/OCT_I3D_8x8.yaml", "--opts", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for name in ("zero.mp4", "text.mp4", "audio_only.mp4"):
        assert f"Unreadable file {clips / 'bad' / name}" in done.stdout
    assert "Unreadable file " + str(clips / "good") not in done.stdout
    lines = (run / "json_stats.log").read_text().splitlines()
    stats = [json.loads(line.removeprefix("json_stats: ")) for line in lines]
    steps = [s for s in stats if s["_type"] == "train_iter"]
    assert len(steps) == len(lists["train"]) // 2
    assert all(np.isfinite(s["loss"]) for s in steps)
    assert stats[-1]["_type"] == "test_final"
    assert (stats[-1]["num_videos"], stats[-1]["num_missing"]) == (1, len(broken))
    with np.load(run / "scores.npz") as saved:
        assert saved["scores"].shape == (1 + len(broken), 30, 400)
        np.testing.assert_allclose(saved["scores"][0].sum(axis=1), 1, atol=1e-4)
        assert saved["scored"].tolist() == [True, False, False, False]
