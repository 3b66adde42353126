"""Small X3D networks, vanilla and octave, and R(2+1)D and CSN: trained, tested, loaded."""

from pathlib import Path

import pytest

import octvideo
from octvideo.config import load_cfg
from octvideo.engine import run_test, run_train
from support import ROOT

pytestmark = pytest.mark.slow

X3D = {
    "MODEL.ARCH": "x3d",
    "MODEL.MODEL_NAME": "X3D",
    "RESNET.TRANS_FUNC": "x3d_transform",
    "X3D.DIM_C5": 32,
    "DATA.NUM_FRAMES": 6,
}


@pytest.mark.parametrize(
    "network",
    [
        {**X3D, "OCTAVE.ENABLE": False},
        {**X3D, "MODEL.ACT_CHECKPOINT": True},
        {"MODEL.ARCH": "r2plus1d"},
        {"MODEL.ARCH": "csn", "DATA.NUM_FRAMES": 8},
    ],
    ids=["x3d", "oct_x3d", "oct_r2plus1d", "oct_csn"],
)
def test_run(tiny_opts: list[str], network: dict[str, object]) -> None:
    views = {"TEST.NUM_ENSEMBLE_VIEWS": 10, "TEST.NUM_SPATIAL_CROPS": 3}
    words = [str(word) for pair in {**network, **views}.items() for word in pair]
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*tiny_opts, *words])
    run_train(cfg)
    assert run_test(cfg)["num_videos"] == 8
    model = octvideo.load(Path(cfg.OUTPUT_DIR))
    assert model.spec.arch == network["MODEL.ARCH"]
    assert (model.spec.octave.alpha > 0) is cfg.OCTAVE.ENABLE
    assert (model.protocol.num_clips, model.protocol.num_crops) == (10, 3)
