"""A small octave SlowFast network with non-local blocks: trained and tested."""

import re
from pathlib import Path

import pytest

from octvideo.config import load_cfg
from octvideo.engine import load_checkpoint, run_test, run_train
from octvideo.engine.checkpoint import list_checkpoints
from octvideo.utils.errors import UserError
from support import ROOT

NETWORK = {
    "MODEL.ARCH": "slowfast",
    "MODEL.MODEL_NAME": "SlowFast",
    "DATA.NUM_FRAMES": 8,
    "DATA.INPUT_CHANNEL_NUM": [3, 3],
    "SLOWFAST.ALPHA": 4,
    "SLOWFAST.BETA_INV": 4,
    "RESNET.NUM_BLOCK_TEMP_KERNEL": [[1, 1]] * 4,
    "RESNET.SPATIAL_STRIDES": [[1, 1], [2, 2], [2, 2], [2, 2]],
    "RESNET.SPATIAL_DILATIONS": [[1, 1]] * 4,
    "NONLOCAL.LOCATION": [[[], []], [[0], []], [[], [0]], [[], []]],
    "NONLOCAL.GROUP": [[1, 1]] * 4,
    "NONLOCAL.INSTANTIATION": "softmax",
}


@pytest.mark.slow
def test_run(tiny_opts: list[str]) -> None:
    opts = [*tiny_opts, *(str(word) for pair in NETWORK.items() for word in pair)]
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", opts)
    run_train(cfg)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert re.search(r"Oct-slowfast \(alpha 0.25\): .* multiply-adds for a clip of 3x8x32x32", log)
    state = load_checkpoint(list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1])
    keys = state["model_state"].keys()
    assert {"s1_fuse.conv_f2s.weight", "s3.pathway0_nonlocal0.bn.weight"} <= keys
    assert run_test(cfg)["num_videos"] == 8


def test_inflation_needs_a_2d_network(tiny_opts: list[str]) -> None:
    cfg = load_cfg(
        ROOT / "configs/Synthetic/OCT_I3D.yaml", [*tiny_opts, "TRAIN.CHECKPOINT_INFLATE", "True"]
    )
    with pytest.raises(UserError, match=r"set TRAIN\.CHECKPOINT_FILE_PATH"):
        run_train(cfg)
