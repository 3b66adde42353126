"""The table of what a training asks for on many GPUs."""

import pytest

from octvideo.api.scale import Measured, format_scale, scale_table
from octvideo.config import load_cfg
from support import ROOT


def test_rows_by_hand():
    cfg = load_cfg(ROOT / "configs/Kinetics/C2D_8x8_R50.yaml")  # 8 GPUs, 64 clips
    one, two, many = scale_table(cfg, Measured(40, 16, 0.5), [1, 2, 64], gpus_per_node=8)
    assert (one["nodes"], two["nodes"], many["nodes"]) == (1, 1, 8)
    assert (one["global_batch"], many["global_batch"]) == (8, 512)
    assert many["linear_rule_lr"] == pytest.approx(0.8)
    assert one["sent_mb_per_step"] == 0
    parameters = 24_327_632  # of the C2D of PySlowFast
    assert two["sent_mb_per_step"] == pytest.approx(4 * parameters / 1e6)
    assert many["sent_mb_per_step"] == pytest.approx(2 * 63 / 64 * 4 * parameters / 1e6)
    assert two["steps_per_second"] == 5
    assert two["sent_mb_per_second"] == pytest.approx(5 * two["sent_mb_per_step"])
    assert many["loader_cores_per_gpu"] == 2.5
    assert (many["files_per_second"], many["storage_mb_per_second"]) == (2560, 1280)
    assert len(format_scale([one, two, many]).splitlines()) == 5
