"""A small model with lively weights, its configuration and checkpoint, and some videos."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from octvideo.config import load_cfg
from octvideo.data.synthetic.videos import make_synthetic
from octvideo.models import build_model
from support import ROOT, liven

CFG = ROOT / "configs/Synthetic/OCT_I3D.yaml"


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> SimpleNamespace:
    """cfg (a file's path), opts, checkpoint, data (folder), videos, model."""
    folder = tmp_path_factory.mktemp("small")
    data = folder / "data"
    make_synthetic(data, num_train=1, num_val=1, num_test=3, seed=2, seconds=(1, 2))
    opts = {
        "DATA.PATH_TO_DATA_DIR": data,
        "OUTPUT_DIR": folder / "run",
        "TEST.NUM_ENSEMBLE_VIEWS": 4,
        "DATA.TEST_CROP_SIZE": 72,
        "DATA_LOADER.NUM_WORKERS": 0,
        "TEST.CHECKPOINT_FILE_PATH": folder / "model.pyth",
    }
    words = [str(word) for pair in opts.items() for word in pair]
    torch.manual_seed(0)
    model = liven(build_model(load_cfg(CFG, words)))
    torch.save({"epoch": 0, "model_state": model.state_dict()}, folder / "model.pyth")
    rows = (data / "test.csv").read_text().splitlines()
    return SimpleNamespace(
        cfg=CFG,
        opts=words,
        checkpoint=folder / "model.pyth",
        data=data,
        videos=[str(data / row.rpartition(" ")[0]) for row in rows],
        model=model,
        folder=Path(folder),
    )
