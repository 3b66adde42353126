"""A tiny set of real videos and a configuration that trains on it in seconds."""

import sys
from pathlib import Path

import pytest
import torch

from octvideo.config import load_cfg
from octvideo.data.synthetic.videos import make_synthetic
from support import ROOT
from support.jobs import CFG, RUN_NET, free_port, results, started, weights_of


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    make_synthetic(folder, num_train=24, num_val=8, num_test=8, seed=3, num_workers=1)
    return folder


def tiny_options(folder: Path) -> dict[str, object]:
    return {
        "DATA.PATH_TO_DATA_DIR": folder,
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


@pytest.fixture(scope="session")
def tiny_words(tiny_set) -> list[str]:
    """Options for configs/Synthetic/OCT_I3D.yaml: four steps an epoch, two epochs."""
    return [str(word) for pair in tiny_options(tiny_set).items() for word in pair]


@pytest.fixture
def tiny_opts(tiny_words, tmp_path) -> list[str]:
    """The same, with a folder of the test for the run."""
    return [*tiny_words, "OUTPUT_DIR", str(tmp_path / "run")]


@pytest.fixture(scope="session")
def job_opts(tiny_words) -> list[str]:
    """Options of a run of several processes: two nodes of one, two steps an epoch, eight epochs."""
    return [
        *tiny_words,
        *("SOLVER.MAX_EPOCH", "8", "TRAIN.EVAL_PERIOD", "0", "TEST.ENABLE", "False"),
        *("LOG_PERIOD", "1", "DATA_LOADER.NUM_WORKERS", "1", "TRAIN.CHECKPOINT_PERIOD", "1"),
    ]


@pytest.fixture(scope="session")
def two_node_run(job_opts, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing has disturbed, of two nodes that it started by hand."""
    folder, port = tmp_path_factory.mktemp("two_nodes"), free_port()
    commands = [
        [
            *(sys.executable, RUN_NET, "--cfg", CFG, "--num_shards", "2", "--shard_id", shard),
            *("--init_method", f"tcp://localhost:{port}"),
            *("--opts", *job_opts, "OUTPUT_DIR", str(folder)),
        ]
        for shard in "01"
    ]
    with started(*commands) as processes:
        ends = results(processes, 120)
    assert [status for status, _ in ends] == [0, 0], ends
    return weights_of(folder)


@pytest.fixture
def tiny_cfg(tiny_opts):
    return load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", tiny_opts)
