"""The set of synthetic images."""

from pathlib import Path

import numpy as np
import pytest

from octvideo.data.read.image import read_image
from octvideo.data.sources.images import list_images
from octvideo.data.synthetic.images import CLASSES, make_synthetic_images, render_image


def test_a_set_is_made_once_and_is_the_same_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert make_synthetic_images(first, num_train=12, num_val=6)
    assert not make_synthetic_images(first, num_train=12, num_val=6)
    assert make_synthetic_images(second, num_train=12, num_val=6)
    images = list_images(first, "train", len(CLASSES))
    assert images.labels.tolist() == sorted([*range(6)] * 2)
    for path in images.paths():
        other = second / Path(path).relative_to(first)
        assert Path(path).read_bytes() == other.read_bytes()
        assert min(read_image(path).size) >= 64


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    make_synthetic_images(tmp_path / "set", num_train=6, num_val=6)
    with pytest.raises(FileExistsError, match="other settings"):
        make_synthetic_images(tmp_path / "set", num_train=7, num_val=6)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="something else"):
        make_synthetic_images(tmp_path, num_train=6, num_val=6)


def test_an_interrupted_set_is_taken_up_again(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_synthetic_images(root, num_train=6, num_val=6)
    (root / "synthetic_images.json").rename(root / "unfinished_synthetic_images.json")
    victim = next((root / "train").rglob("*.jpg"))
    content = victim.read_bytes()
    victim.unlink()
    assert make_synthetic_images(root, num_train=6, num_val=6)
    assert victim.read_bytes() == content


def test_classes_differ_in_hue_and_fill_alone() -> None:
    for seed in range(5):
        images = {name: render_image(seed, name, 80, 90) for name in CLASSES}
        assert len({image.tobytes() for image in images.values()}) == len(CLASSES)
        warm, cool = images["warm_plain"], images["cool_plain"]
        within = (warm != cool).any(-1)
        assert 0.1 < within.mean() < 0.6
        for image in images.values():
            assert np.array_equal(image[~within], warm[~within])
        assert (np.median(warm[within], 0)[[0, 2]] @ [1, -1]) > 30  # red over blue
        assert (np.median(cool[within], 0)[[0, 2]] @ [1, -1]) < -30
