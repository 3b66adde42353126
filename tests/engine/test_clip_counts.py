"""A test of several numbers of clips, one after another, as PySlowFast's lists ask for."""

import json
from pathlib import Path

import numpy as np
import torch

from octvideo.config import load_cfg
from octvideo.engine import run_test
from octvideo.models import build_model
from support import ROOT, liven


def test_each_number_of_clips_is_tested(tiny_opts, tmp_path):
    counts = [2, 1]
    more = {
        "TEST.NUM_TEMPORAL_CLIPS": counts,
        "TRAIN.ENABLE": False,
        "TEST.CHECKPOINT_FILE_PATH": tmp_path / "weights.pyth",
        "TEST.SAVE_RESULTS_PATH": "scores.npz",
    }
    opts = [*tiny_opts, *(str(word) for pair in more.items() for word in pair)]
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", opts)
    torch.manual_seed(0)
    state = liven(build_model(cfg)).state_dict()
    torch.save({"model_state": state}, tmp_path / "weights.pyth")
    result = run_test(cfg)
    assert result["num_views"] == 3 * counts[-1]
    with np.load(Path(cfg.OUTPUT_DIR) / "scores.npz") as saved:
        assert saved["scores"].shape == (8, 3 * counts[-1], 8)
    log = (Path(cfg.OUTPUT_DIR) / "json_stats.log").read_text().splitlines()
    lines = [json.loads(line.partition("json_stats: ")[2]) for line in log]
    finals = [line["num_views"] for line in lines if line["_type"] == "test_final"]
    assert finals == [3 * count for count in counts]
