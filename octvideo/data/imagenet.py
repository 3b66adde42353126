"""ImageNet and other folders of pictures: a folder a class, in train/ and val/.

root/train/n01440764/n01440764_10026.JPEG      root/val/n01440764/ILSVRC2012_val_00000293.JPEG

The folders of the splits may have other usual names, such as Train and valid: see `split_of`.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from octvideo.data.crash_safe_loader import Watch
from octvideo.data.kinetics import VideoList, item_of, read_or_replace
from octvideo.data.labels import class_names_beside
from octvideo.data.pictures import ENDINGS, PictureTransform, centre_view, read_picture
from octvideo.data.prepare.folders import split_folder
from octvideo.data.protocol import CentreCrop
from octvideo.data.read.packet_index import VideoError
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")

LAYOUT = "train/CLASS/*.JPEG and val/CLASS/*.JPEG"


def list_pictures(root: str | Path, split: str, num_classes: int) -> VideoList:
    """The pictures of ``train``, ``val`` or ``test``, by class and name, in arrays.

    Labels count the class folders of train (where there is none: of val) by their sorted names;
    a class_names.json beside them gives another order. A test set is optional: val stands for it.

    Raises:
        UserError: no such folders, no pictures, or other classes than there should be.
    """
    root = Path(root)
    folder = split_folder(root, split)
    if split == "test" and not class_folders(folder):
        folder = split_folder(root, "val")
    names = picture_classes(root, num_classes)
    unknown = set(class_folders(folder)) - set(names)
    if unknown:
        raise UserError(
            f"{folder} has the class folder {min(unknown)}, which is not among the "
            f"{len(names)} classes of the data set ({_source(root)})"
        )
    labels = {name: label for label, name in enumerate(names)}
    pictures = VideoList.from_rows(_rows(folder, labels), prefix=str(folder))
    if not len(pictures):
        raise UserError(f"there are no pictures ({', '.join(ENDINGS)}) in the folders of {folder}")
    logger.info("%s: %d pictures of %d classes", folder, len(pictures), len(names))
    return pictures


def picture_classes(root: str | Path, num_classes: int) -> list[str]:
    """The names of the classes in label order: those of class_names.json, else of the folders."""
    root = Path(root)
    names = class_names_beside(root, num_classes)
    if names is not None:
        return names
    folders = class_folders(split_folder(root, "train")) or class_folders(split_folder(root, "val"))
    if not folders:
        raise UserError(
            f"there are no pictures in class folders: DATA.PATH_TO_DATA_DIR ({str(root)!r}) must "
            f"be a folder with {LAYOUT}"
        )
    if len(folders) != num_classes:
        raise UserError(
            f"{_source(root)} has {len(folders)} class folders, but MODEL.NUM_CLASSES is "
            f"{num_classes}: set MODEL.NUM_CLASSES {len(folders)}, or, where folders are missing, "
            f"name all classes in the order of their labels in {root / 'class_names.json'}"
        )
    return folders


def class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in a folder; [] where it does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def _source(root: Path) -> Path:
    """Where the classes come from."""
    given = root / "class_names.json"
    if given.is_file():
        return given
    train = split_folder(root, "train")
    return train if class_folders(train) else split_folder(root, "val")


def _rows(folder: Path, labels: dict[str, int]) -> Iterator[tuple[str, int]]:
    for name in class_folders(folder):
        with os.scandir(folder / name) as entries:
            files = sorted(e.name for e in entries if e.name.lower().endswith(ENDINGS))
        for file in files:
            yield f"{name}/{file}", labels[name]


class TrainPictures(Dataset):
    """One random view of each picture; keys are (epoch, index), as `EpochSampler` yields them.

    What it looks like depends on seed, epoch and index alone. An unreadable picture is replaced
    by another one, drawn in the same way. copies: as of `Augmentation`.
    """

    def __init__(
        self,
        pictures: VideoList,
        transform: PictureTransform,
        seed: int = 0,
        copies: int = 1,
        clean_first: bool = False,
        max_tries: int = 10,
        watch: Watch | None = None,
    ) -> None:
        self.videos, self.transform, self.seed = pictures, transform, seed
        self.copies, self.clean_first, self.max_tries = copies, clean_first, max_tries
        self.watch = watch or Watch()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """As `TrainClips`, but that video is (3, s, s)."""
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        picture, index, bad = read_or_replace(
            self.videos, index, read_picture, rng, self.watch, self.max_tries
        )
        views = []
        if picture is not None:
            clean = self.clean_first and self.copies > 1
            views = [
                self.transform(picture, rng, clean=clean and copy == 0)
                for copy in range(self.copies)
            ]
        return item_of(views, int(self.videos.labels[index]), index, bad)


class CentrePictures(Dataset):
    """The centre crop of each picture, for validation and for tests."""

    def __init__(self, pictures: VideoList, crop: CentreCrop, watch: Watch | None = None) -> None:
        self.videos, self.crop, self.watch = pictures, crop, watch or Watch()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As TrainPictures; the video of an unreadable file is None."""
        path, label = self.videos.path(index), int(self.videos.labels[index])
        try:
            with self.watch.reading(index, path):
                picture = read_picture(path)
        except VideoError as error:
            return item_of(None, label, index, [(path, error.reason)])
        return item_of(centre_view(picture, self.crop), label, index, [])
