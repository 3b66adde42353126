"""Images in class folders: ImageNet, and whatever else has a folder a class in train/ and val/.

root/train/n01440764/n01440764_10026.JPEG      root/val/n01440764/ILSVRC2012_val_00000293.JPEG

The folders of the splits may have other usual names, such as Train and valid: see `split_of`.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from octvideo.data.labels import class_names_beside
from octvideo.data.protocol import Protocol
from octvideo.data.read.frames import Frames
from octvideo.data.read.image import ENDINGS, ImageFrames
from octvideo.data.sources.file_list import FileList, Finding
from octvideo.data.sources.folders import split_folder
from octvideo.data.sources.source import Place, Source, register
from octvideo.utils.errors import UserError

LAYOUT = "train/CLASS/*.JPEG and val/CLASS/*.JPEG"


def list_images(root: str | Path, split: str, num_classes: int) -> FileList:
    """Returns the images of ``train``, ``val`` or ``test``, by class and name, in arrays.

    Labels count the class folders of train (where there is none: of val) by their sorted names;
    a class_names.json beside them gives another order. A test set is optional: val stands for it.

    Raises:
        UserError: no such folders, no images, or other classes than there should be.
    """
    root = Path(root)
    folder = split_folder(root, split)
    if split == "test" and not class_folders(folder):
        folder = split_folder(root, "val")
    names = image_classes(root, num_classes)
    unknown = set(class_folders(folder)) - set(names)
    if unknown:
        raise UserError(
            f"{folder} has the class folder {min(unknown)}, which is not among the "
            f"{len(names)} classes of the data set ({_source(root)})"
        )
    labels = {name: label for label, name in enumerate(names)}
    images = FileList.from_rows(_rows(folder, labels), prefix=str(folder))
    if not len(images):
        raise UserError(f"there are no images ({', '.join(ENDINGS)}) in the folders of {folder}")
    text = f"{folder}: {len(images)} images of {len(names)} classes"
    return images.noting(Finding(logging.INFO, text))


def image_classes(root: str | Path, num_classes: int) -> list[str]:
    """Returns the class names in label order, from class_names.json or else the folders."""
    root = Path(root)
    names = class_names_beside(root, num_classes)
    if names is not None:
        return names
    folders = class_folders(split_folder(root, "train")) or class_folders(split_folder(root, "val"))
    if not folders:
        raise UserError(
            f"there are no images in class folders: DATA.PATH_TO_DATA_DIR ({str(root)!r}) must "
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
    """Returns the sorted names of the folders in a folder; [] where it does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def _source(root: Path) -> Path:
    """Returns where the classes come from."""
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


class ImageFolders(Source):
    """Image files in class folders, which are in the folders of the splits."""

    images = True
    noun = "images"

    def list_files(self, place: Place, split: str) -> FileList:
        return list_images(place.folder, split, place.num_classes)

    def class_names(self, place: Place) -> list[str]:
        return image_classes(place.folder, place.num_classes)

    def open(self, path: str, protocol: Protocol) -> Frames:
        return ImageFrames(path)


register("imagenet", ImageFolders())
