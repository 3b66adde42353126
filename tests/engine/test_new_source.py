"""A new source is one file: folders of frames, known by a name of their own, trained and tested."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fvcore.common.config import CfgNode
from PIL import Image

from octvideo.config import datasets, linear_rule_lr, load_cfg
from octvideo.config.datasets import DATASETS
from octvideo.data import build_test_loader, read_split, view
from octvideo.data.protocol import Protocol
from octvideo.data.read.frames import Frames
from octvideo.data.read.image import read_image
from octvideo.data.read.timing import Timing
from octvideo.data.sources import register, source
from octvideo.data.sources.videos import ListedVideos
from octvideo.engine.test import run_test
from octvideo.engine.train import run_train
from octvideo.utils.errors import UserError
from support import ROOT

# ------------------------------------------------------------ all that a user writes


class FrameFolder(Frames):
    """A folder of numbered images as a video of 30 frames a second."""

    timing = Timing(fps=30.0)

    def __init__(self, path: str) -> None:
        self.path, self.files = path, sorted(Path(path).glob("*.png"))
        self.num_frames = len(self.files)

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            yield index, np.asarray(read_image(str(self.files[index])))


class FrameFolders(ListedVideos):
    noun = "folders"

    def open(self, path: str, protocol: Protocol) -> Frames:
        return FrameFolder(path)


# ------------------------------------------------------------------------ and its proof


@pytest.fixture
def cfg(tmp_path: Path, tiny_opts: list[str], monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    """Four folders of 12 grey frames, which tell their numbers; the third is broken."""
    monkeypatch.setattr(source, "_SOURCES", dict(source._SOURCES))
    monkeypatch.setitem(DATASETS, "frames", DATASETS["kinetics"])  # it goes when the test ends
    register("frames", FrameFolders())
    data, rows = tmp_path / "data", []
    for number in range(4):
        folder = data / str(number)
        folder.mkdir(parents=True)
        rows.append(f"{folder} {number % 2}")
        for n in range(12):
            Image.new("L", (48, 40), 50 * number + 4 * n).save(folder / f"{n:03d}.png")
    (data / "2" / "000.png").write_bytes(b"no image")
    for split in ("train", "val", "test"):
        (data / f"{split}.csv").write_text("\n".join(rows))
    more = {
        "TRAIN.DATASET": "frames", "TEST.DATASET": "frames", "DATA.PATH_TO_DATA_DIR": data,
        "MODEL.NUM_CLASSES": 2, "TRAIN.BATCH_SIZE": 2, "SOLVER.MAX_EPOCH": 1,
        "DATA.SAMPLING_RATE": 3, "DATA.MAX_BAD_FRACTION": 1.0, "DATA_LOADER.NUM_WORKERS": 1,
    }  # fmt: skip
    words = [str(word) for pair in more.items() for word in pair]
    return load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*tiny_opts, *words])


def test_its_frames_are_those_that_are_asked_for(cfg: CfgNode) -> None:
    good, bad = (build_test_loader(cfg).dataset[index] for index in (1, 2))
    # A clip of 4 frames, 3 apart, spans all 12: linspace(0, 11, 4), truncated.
    for clip in good["clips"]:
        grey = view(good["frames"], clip, good["crops"][0], 32).float().mean((0, 2, 3))
        assert grey.tolist() == pytest.approx([50 + 4 * n for n in (0, 3, 7, 11)], abs=0.01)
    [(path, _)] = bad["bad"]
    assert path == str(Path(cfg.DATA.PATH_TO_DATA_DIR) / "2")


def test_it_is_trained_and_tested_by_its_name(cfg: CfgNode) -> None:
    result = run_test(cfg, run_train(cfg))
    assert (result["num_videos"], result["num_missing"], result["num_views"]) == (3, 1, 6)
    assert "of 3 folders; 1 missing" in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()


def test_a_name_of_no_source_is_refused(tiny_opts: list[str]) -> None:
    with pytest.raises(UserError, match=r"TRAIN.DATASET is 'frames': set one of kinetics, image"):
        load_cfg(None, [*tiny_opts, "TRAIN.DATASET", "frames"])


def test_a_module_among_the_sources_is_known_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_frames.py").touch()
    monkeypatch.setattr(datasets, "_SOURCES", tmp_path)
    cfg = load_cfg(None, ["TRAIN.DATASET", "my_frames", "TEST.DATASET", "my_frames"])
    assert linear_rule_lr(cfg, 64) == pytest.approx(0.1)  # as of videos
    with pytest.raises(UserError, match="no data set 'my_frames'"):
        read_split(cfg, "train")
