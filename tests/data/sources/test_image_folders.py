"""Folders of pictures: lists, the two ways of reading them, and what is wrong with them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from octvideo.config import get_cfg
from octvideo.data import build_test_loader, build_train_loader, build_val_loader
from octvideo.data.augment import Augmentation
from octvideo.data.clips import AllViews, RandomClips, collate_clips
from octvideo.data.image_transforms import ImageTransform
from octvideo.data.protocol import CentreCrop, Protocol
from octvideo.data.sources import source_of
from octvideo.data.sources.images import image_classes, list_images
from octvideo.utils.errors import UserError

CLASSES = ("ant", "bee", "cat")
IMAGES = source_of("imagenet")
PROTOCOL = Protocol(1, 1, centre_crop=CentreCrop(16))
SMALL = ImageTransform(crop_size=16)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures a class in train, two in val; the colour tells class and number."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                colour = (40 + 60 * label, 20 * n, 100)
                Image.new("RGB", (40 + n, 30), colour).save(folder / f"{n}.png")
    (root / "train" / "ant" / "notes.txt").write_text("not a picture")
    (root / "train" / ".cache").mkdir()
    return root


def test_labels_count_the_sorted_folders(root: Path) -> None:
    pictures = list_images(root, "train", 3)
    assert len(pictures) == 12
    assert pictures.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert pictures.path(5) == str(root / "train" / "bee" / "1.png")
    assert image_classes(root, 3) == [*CLASSES]
    assert list_images(root, "test", 3).paths() == list_images(root, "val", 3).paths()


def test_a_million_pictures_are_no_python_objects(root: Path) -> None:
    pictures = list_images(root, "train", 3)
    assert isinstance(pictures.text, bytes)
    assert {type(pictures.ends), type(pictures.labels)} == {np.ndarray}


def test_a_class_missing_in_val_moves_no_label(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("val", "ac")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (9, 9)).save(tmp_path / split / name / "x.jpg")
    assert list_images(tmp_path, "val", 3).labels.tolist() == [0, 2]


def test_class_names_json_gives_the_order(root: Path, tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to(root / "val")
    order = {"cat": 0, "dog": 1, "bee": 2, "ant": 3}
    (tmp_path / "class_names.json").write_text(json.dumps(order))
    assert list_images(tmp_path, "val", 4).labels.tolist() == [3, 3, 2, 2, 0, 0]
    (tmp_path / "class_names.json").write_text(json.dumps(["ant", "bee", "dog", "eel"]))
    with pytest.raises(UserError, match="class folder cat, which is not among the 4 classes"):
        list_images(tmp_path, "val", 4)


@pytest.mark.parametrize(("train", "val"), [("Train", "Valid"), ("TRAINING", "dev")])
def test_folders_of_splits_by_other_names(root: Path, tmp_path: Path, train: str, val: str) -> None:
    (tmp_path / train).symlink_to(root / "train")
    (tmp_path / val).symlink_to(root / "val")
    for split, folder in (("train", train), ("val", val), ("test", val)):
        found, wanted = (list_images(r, split, 3) for r in (tmp_path, root))
        assert found.labels.tolist() == wanted.labels.tolist()
        assert {Path(path).parent.parent for path in found.paths()} == {tmp_path / folder}


def test_wrong_folders_are_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 3 class folders, but MODEL.NUM_CLASSES is 1000"):
        list_images(root, "train", 1000)
    with pytest.raises(UserError, match=r"DATA.PATH_TO_DATA_DIR .* train/CLASS/"):
        list_images(tmp_path / "nowhere", "train", 3)
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"there are no images \(.jpeg"):
        list_images(tmp_path, "train", 1)
    (tmp_path / "val").mkdir()  # as it comes from ImageNet's archive
    Image.new("L", (9, 9)).save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match="there are no images"):
        list_images(tmp_path, "val", 1)


def test_a_training_picture_depends_on_seed_epoch_and_index_alone(root: Path) -> None:
    pictures = list_images(root, "train", 3)

    def look(seed: int, key: tuple[int, int]) -> torch.Tensor:
        transform = ImageTransform(crop_size=16, color_jitter=0.4)
        [view] = RandomClips(pictures, IMAGES, PROTOCOL, transform, seed)[key]["views"]
        return view

    first = look(1, (0, 5))
    assert first.dtype == torch.uint8
    assert first.shape == (3, 1, 16, 16)
    assert torch.equal(first, look(1, (0, 5)))
    for seed, key in ((2, (0, 5)), (1, (1, 5)), (1, (0, 6))):
        assert not torch.equal(first, look(seed, key))


def test_an_unreadable_picture_is_replaced_in_training_and_missing_in_tests(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (50, 50), (250, 0, 0)).save(folder / "0.jpg")
    (folder / "1.jpg").write_bytes((folder / "0.jpg").read_bytes()[:400])
    pictures = list_images(tmp_path, "train", 1)
    item = RandomClips(pictures, IMAGES, PROTOCOL, SMALL)[0, 1]
    assert item["index"] == 0
    assert {path for path, _ in item["bad"]} == {str(folder / "1.jpg")}
    assert item["views"][0].float().mean((1, 2, 3))[0] > 200

    item = AllViews(pictures, IMAGES, PROTOCOL.of_images())[1]
    assert "frames" not in item
    assert len(collate_clips([item])["label"]) == 0
    [(path, reason)] = item["bad"]
    assert path == str(folder / "1.jpg")
    assert reason

    (folder / "0.jpg").write_bytes(b"")
    item = RandomClips(pictures, IMAGES, PROTOCOL, SMALL, max_tries=3)[0, 0]
    assert item["views"] == []
    assert len(item["bad"]) == 3


def test_several_copies_of_a_picture_are_drawn_anew(root: Path) -> None:
    pictures = list_images(root, "train", 3)
    transform = ImageTransform(crop_size=16, color_jitter=0.4, augmentation=Augmentation(copies=3))
    views = RandomClips(pictures, IMAGES, PROTOCOL, transform)[0, 4]["views"]
    assert len(views) == 3
    assert not torch.equal(views[0], views[1])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_batches_of_pictures(
    root: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("TRAIN.DATASET", "imagenet", "TEST.DATASET", "imagenet"),
            *("MODEL.ARCH", "2d", "MODEL.MODEL_NAME", "resnet50_v2", "DATA.NUM_FRAMES", 1),
            *("MODEL.NUM_CLASSES", 3, "DATA.PATH_TO_DATA_DIR", str(root), "NUM_GPUS", 0),
            *("TRAIN.BATCH_SIZE", 4, "TEST.BATCH_SIZE", 5, "DATA_LOADER.NUM_WORKERS", workers),
            *("DATA.TRAIN_CROP_SIZE", 16, "DATA.TEST_CROP_SIZE", 24),
        ]
    )
    train, val, test = build_train_loader(cfg), build_val_loader(cfg), build_test_loader(cfg)
    batches = list(train)
    assert [b["video"].shape for b in batches] == [(4, 3, 1, 16, 16)] * 3
    assert sorted(torch.cat([b["index"] for b in batches]).tolist()) == list(range(12))
    assert [tuple(b["video"].shape) for b in val] == [(4, 3, 1, 24, 24), (2, 3, 1, 24, 24)]
    batches = list(test)
    assert torch.cat([b["label"] for b in batches]).tolist() == [0, 0, 1, 1, 2, 2]
    assert batches[0]["video"].dtype == torch.uint8
    red = torch.cat([b["video"] for b in batches]).float().mean((2, 3, 4))[:, 0]
    assert torch.equal(red.round(), torch.tensor([40.0, 40, 100, 100, 160, 160]))
    assert "12 images of 3 classes" in caplog.text
