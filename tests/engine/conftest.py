"""A tiny set of real videos and a configuration that trains on it in seconds."""

from pathlib import Path

import pytest

from octvideo.config import load_cfg
from octvideo.data.synthetic import make_synthetic
from support import ROOT


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    make_synthetic(folder, num_train=24, num_val=8, num_test=8, seed=3, num_workers=1)
    return folder


@pytest.fixture
def tiny_opts(tiny_set, tmp_path) -> list[str]:
    """Options for configs/Synthetic/OCT_I3D.yaml: four steps an epoch, two epochs."""
    options = {
        "DATA.PATH_TO_DATA_DIR": tiny_set,
        "OUTPUT_DIR": tmp_path / "run",
        "DATA.NUM_FRAMES": 4,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [36, 40],
        "DATA.TEST_CROP_SIZE": 32,
        "TRAIN.BATCH_SIZE": 6,
        "SOLVER.MAX_EPOCH": 2,
        "MODEL.DROPOUT_RATE": 0.5,
        "BN.USE_PRECISE_STATS": True,
        "BN.NUM_BATCHES_PRECISE": 2,
        "LOG_PERIOD": 2,
        "DATA_LOADER.NUM_WORKERS": 0,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
        "TENSORBOARD.ENABLE": False,
    }
    return [str(word) for pair in options.items() for word in pair]


@pytest.fixture
def tiny_cfg(tiny_opts):
    return load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", tiny_opts)
