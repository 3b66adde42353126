import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from octvideo.cli.prepare import main
from octvideo.data.prepare.shrec17 import CLASSES, Shape, read_recording
from octvideo.utils.errors import UserError


def make_recording(
    root: Path, where: str, frames: int, box: tuple[int, ...] = (20, 30, 64, 64)
) -> None:
    """A hand 400 mm away, that goes from the left half of its box to the right one."""
    folder = root / where
    folder.mkdir(parents=True)
    x, y, width, height = box
    for index in range(frames):
        depth = np.zeros((120, 160), np.uint16)
        left = x + (width // 2 if index >= frames / 2 else 0)
        depth[y : y + height, x : x + width] = 520  # behind the hand
        depth[y : y + height, left : left + width // 2] = 400
        depth[:10, :10] = 1  # outside of the box
        Image.fromarray(depth).save(folder / f"{index}_depth.png")
    lines = "".join(f"{index} {x} {y} {width} {height}\n" for index in range(frames))
    (folder / "general_informations.txt").write_text(lines)


@pytest.fixture
def download(tmp_path: Path) -> Path:
    root = tmp_path / "download"
    for where in (
        "gesture_1/finger_1/subject_2/essai_1",
        "gesture_14/finger_2/subject_20/essai_3",
        "gesture_7/finger_1/subject_28/essai_5",
    ):
        make_recording(root, where, 20)
    train = ["1 1 2 1 1 1 20", "14 2 20 3 14 28 20", "2 1 2 1 2 3 20"]  # the last has no files
    (root / "train_gestures.txt").write_text("\n".join(train) + "\n")
    (root / "test_gestures.txt").write_text("7 1 28 5 7 13 20 \n\n")
    return root


def test_lists_and_clips(download: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    words = ["shrec17", str(download), "--out", str(out), "--workers", "1"]
    assert main(words) == 0
    assert (out / "train.csv").read_text() == "train/g01_f1_s02_e1.mp4 0\n"
    assert (out / "val.csv").read_text() == "val/g14_f2_s20_e3.mp4 13\n"
    assert (out / "test.csv").read_text() == "test/g07_f1_s28_e5.mp4 6\n"
    assert json.loads((out / "class_names.json").read_text()) == dict(
        zip(CLASSES, range(14), strict=True)
    )
    bad = (out / "bad_videos.csv").read_text().splitlines()
    assert len(bad) == 2
    assert bad[1].startswith("gesture_2/finger_1/subject_2/essai_1,")
    with av.open(str(out / "val/g14_f2_s20_e3.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 30
    film = np.stack(frames).astype(float).mean(-1)
    assert film.shape == (32, 50, 50)
    assert film[0, :, 5:20].mean() > film[0, :, 30:45].mean() + 50  # the near hand is bright
    assert film[-1, :, 5:20].mean() + 50 < film[-1, :, 30:45].mean()  # and goes to the right
    made = (out / "val/g14_f2_s20_e3.mp4").stat().st_mtime_ns
    assert main(words) == 0
    assert made == (out / "val/g14_f2_s20_e3.mp4").stat().st_mtime_ns
    assert main([*words, "--size", "40"]) == 2  # clips of another shape are there


def test_brightness_is_depth_about_the_median(download: Path) -> None:
    frames = read_recording(download / "gesture_1/finger_1/subject_2/essai_1", Shape(10, 64))
    assert frames.shape == (10, 64, 64, 3)
    # Half of what is seen is at 400 mm, half at 520: the median is 460, and 150 mm are shown.
    assert set(np.unique(frames)) == {77, 179}  # 76.5, 178.5


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("general_informations.txt", "0 1 2 3\n", "4 numbers"),
        ("general_informations.txt", "0 a b c d\n", "general_informations.txt"),
        ("general_informations.txt", "0 500 2 30 30\n", "lies outside"),
        ("0_depth.png", "no image", "0_depth.png"),
    ],
)
def test_damaged_recordings_are_named(download: Path, name: str, content: str, found: str) -> None:
    folder = download / "gesture_1/finger_1/subject_2/essai_1"
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=found):
        read_recording(folder, Shape())


@pytest.mark.parametrize(
    ("text", "found"), [("1 1 2\n", "line 1"), ("1 1 2 1\n15 1 2 1\n", "line 2: gesture 15")]
)
def test_damaged_lists_are_named(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, found: str
) -> None:
    (download / "train_gestures.txt").write_text(text)
    assert main(["shrec17", str(download), "--out", str(tmp_path / "out")]) == 2
    assert found in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (download / "train_gestures.txt").unlink()
    assert main(["shrec17", str(download), "--out", str(tmp_path / "out")]) == 2
    assert "train_gestures.txt is missing" in capsys.readouterr().err
