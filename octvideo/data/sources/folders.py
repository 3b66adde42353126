"""The folders of a data set: which are splits, which are classes, and the videos in them."""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")

SPLITS = ("train", "val", "test")
VIDEO_ENDINGS = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".webm", ".wmv",
}  # fmt: skip
_NAMES = {
    "train": ("train", "training", "trainset", "trainingset", "trn"),
    "val": ("val", "valid", "validate", "validation", "valset", "validset", "validationset",
            "dev", "devel", "devset", "eval", "evaluation"),
    "test": ("test", "testing", "tests", "testset"),
}  # fmt: skip
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}


def split_of(name: str) -> str | None:
    """Returns the split that a name reads like: Train, valid, dev, val_256, clips-test.

    None for other names, and for those that hold the words of two splits.
    """
    found = {_SPLIT_OF[word] for word in _words(name) if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None


def _rest(name: str) -> tuple[str, ...]:
    """Returns the words of a name that are no split: equal for videos_train and videos_val."""
    return tuple(word for word in _words(name) if word not in _SPLIT_OF)


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.casefold())


def folders_in(root: Path) -> list[Path]:
    """Returns the folders directly in ``root``, sorted; hidden ones are left out."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    return sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))


def split_folder(root: Path, split: str) -> Path:
    """Returns the folder of a split: ``root/split``, or the one that reads like it (Train, valid).

    ``root/split`` where there is none. Raises UserError where there are two.
    """
    exact = root / split
    if exact.is_dir() or not root.is_dir():
        return exact
    found = [f for f in folders_in(root) if split_of(f.name) == split and not _rest(f.name)]
    if len(found) > 1:
        raise UserError(f"{root} has two folders for {split}: {found[0].name}, {found[1].name}")
    return found[0] if found else exact


def split_folders(root: Path, layout: str = "auto") -> dict[str, Path] | None:
    """Returns the folder of each split, or None if the folders in ``root`` are classes.

    Args:
        layout: "classes" and "splits" decide; "auto" goes by the names, and refuses to guess
            where these leave a doubt.

    Raises:
        UserError: the names leave a doubt, or two folders stand for one split.
    """
    folders = folders_in(root)
    if layout == "classes" or not folders:
        return None
    named = {folder: split for folder in folders if (split := split_of(folder.name))}
    if layout == "splits":
        if not named:
            raise UserError(f"{root} has no folder that reads like train, val or test")
        return _one_each(root, named)
    alike: dict[tuple[str, ...], set[str]] = {}
    for folder, split in named.items():
        alike.setdefault(_rest(folder.name), set()).add(split)
    if len(named) == len(folders) and len(alike) == 1:
        return _one_each(root, named)
    # A class may have such a name, as a railway train. It holds videos, where a split has classes.
    if any(len(splits) > 1 for splits in alike.values()) or any(
        not _rest(folder.name) and _holds_classes(folder) for folder in named
    ):
        others = [folder.name for folder in folders if folder not in named]
        beside = f", but not {first_few(others)}" if others else ", but not alike"
        raise UserError(
            f"{root}: {first_few([f.name for f in named])} read like splits{beside}. If all of "
            "these are classes, add --layout classes; if those are the splits and the others are "
            "to be left out, add --layout splits"
        )
    return None


def _one_each(root: Path, named: dict[Path, str]) -> dict[str, Path]:
    parts: dict[str, Path] = {}
    for folder, split in named.items():
        if split in parts:
            raise UserError(
                f"{root} has two folders for the split {split}, {parts[split].name} and "
                f"{folder.name}: merge or rename one of them. If they are classes, add "
                "--layout classes"
            )
        parts[split] = folder
    return parts


def _holds_classes(folder: Path) -> bool:
    """Tests whether there are folders in it, and no videos."""
    inner = list(folder.iterdir())
    return any(entry.is_dir() for entry in inner) and not any(
        entry.suffix.lower() in VIDEO_ENDINGS for entry in inner
    )


def video_files(root: Path, endings: Collection[str] = VIDEO_ENDINGS) -> list[str]:
    """Returns the files below ``root`` that end like videos, sorted; hidden ones are left out."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    found = []
    others: Counter[str] = Counter()
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = [n for n in inner if not n.startswith(".") and not _leads_up(folder, n)]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in endings:
                found.append(os.path.join(folder, name))
            else:
                others[suffix or "no ending"] += 1
    if others:
        shown = ", ".join(f"{count} of {suffix}" for suffix, count in others.most_common(5))
        logger.warning("%s: files that do not end like videos are left out: %s", root, shown)
    return sorted(found)


def _leads_up(folder: str, name: str) -> bool:
    """Tests whether a folder is a link to one that it lies in: the walk would not end."""
    target = os.path.realpath(os.path.join(folder, name))
    return Path(os.path.realpath(folder)).is_relative_to(target)


def first_few(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
