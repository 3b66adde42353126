"""Features of many videos, written one file a video, so that the work can be taken up again."""

import errno
import hashlib
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from octvideo.api.predict import check_finite, features_scorer, rows, views_of
from octvideo.data.clips import Item
from octvideo.data.crash_safe_loader import VideoLoader, Watch
from octvideo.data.protocol import Protocol
from octvideo.engine.scorer import Scorer
from octvideo.utils.console import printable, say
from octvideo.utils.errors import NonFiniteError, UserError
from octvideo.utils.files import claim, whole_file

logger = logging.getLogger("octvideo")

_SETTINGS = "features.json"
_MAX_NAME_BYTES = 251  # a file system allows 255, with .npz


def extract_all(
    videos: Sequence[str],
    model: nn.Module,
    settings: Protocol,
    out: Path,
    *,
    model_name: str = "",
    fast: bool = False,
    per_view: bool = False,
    batch_size: int = 8,
    num_workers: int = 0,
    timeout: float = 120.0,
) -> list[tuple[str, str]]:
    """Writes the features of every video; those that are there already are left alone.

    Into a folder ``out``, ``path/of/video.mp4.npz`` each (`feature_path`), or, where ``out`` ends
    in .npz, into that one file when all are done: features (N, C) or (N, views, C), and paths.
    Every .npz of a video has features, float32 (C,) or (views, C), and path.

    Args:
        model_name: identifies the model; a folder holds the features of one model.
        num_workers: processes that decode. Without, a decoder that hangs or crashes does so here.
        timeout: seconds that one of them may take for a video.

    Returns:
        (path, reason) of each video that could not be read, or whose features are not finite or
        have no place (a path too long).

    Raises:
        UserError: ``out`` holds features of another model or other settings; no video is readable.
    """
    videos = list(dict.fromkeys(videos))
    single = out.suffix == ".npz"
    folder = out.with_name(f"{out.name}.parts") if single else out
    what = {"model": model_name, "fast": fast, "per_view": per_view, **asdict(settings)}
    claim(folder / _SETTINGS, what)
    targets = {video: feature_path(video, folder) for video in videos}
    missing = [video for video in videos if _saved_features(targets[video]) is None]
    if len(missing) < len(videos):
        logger.info("%d of %d videos are done already", len(videos) - len(missing), len(videos))
    bad: list[tuple[str, str]] = []
    watch = Watch(num_workers, timeout)
    items = _items(missing, settings, fast, watch, num_workers)
    scorer = features_scorer(model, settings, batch_size)
    for item in tqdm(items, total=len(missing), unit="video", disable=None):
        video = missing[item["index"]]
        reason = _write_features(video, item, scorer, per_view, targets[video])
        if reason is not None:
            bad.append((video, reason))
            with tqdm.external_write_mode():  # above the progress bar
                say(f"{printable(video)}: {printable(reason)}")
    if single:
        _join([(video, targets[video]) for video in videos], out)
    return bad


def _write_features(
    video: str, item: Item, scorer: Scorer, per_view: bool, target: Path
) -> str | None:
    """Writes the features of a video, or returns why that is impossible."""
    if item["bad"]:
        return item["bad"][0][1]
    features = rows(scorer, item)
    try:
        check_finite(features, "features", video)
    except NonFiniteError as error:
        return str(error).removeprefix(f"{video}: ")
    features = features if per_view else features.mean(axis=0)
    try:
        with whole_file(target) as part, open(part, "wb") as file:
            np.savez(file, features=features, path=video)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return f"{error.strerror}: {target}"
    return None


def feature_path(video: str, folder: Path) -> Path:
    """Where the features of a video go: the video's whole path below ``folder``, plus .npz.

    A name too long for that ends in its SHA-256 instead.
    """
    inside = os.path.relpath(os.path.abspath(video), os.path.abspath(os.sep))
    head, name = os.path.split(inside)
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()
        name = os.fsdecode(os.fsencode(name)[: _MAX_NAME_BYTES - 65]) + f"-{digest}"
    return folder / head / f"{name}.npz"


def _saved_features(path: Path) -> np.ndarray | None:
    """Returns the features of a file; None if there is none, or a damaged one to make again."""
    if not os.path.exists(path):  # also a name too long for any file
        return None
    try:
        with np.load(path) as saved:
            return saved["features"]
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged (%s) and is made again", path, error)
        return None


def _items(
    videos: Sequence[str], settings: Protocol, fast: bool, watch: Watch, num_workers: int
) -> Iterator[Item]:
    if not videos:
        return
    yield from VideoLoader[Item](
        views_of(videos, settings, fast, watch),
        range(len(videos)),
        num_workers,
        batch_size=None,
        prefetch_factor=1 if num_workers else None,
    )


def _join(parts: Sequence[tuple[str, Path]], out: Path) -> None:
    found = {video: saved for video, part in parts if (saved := _saved_features(part)) is not None}
    if not found:
        raise UserError(f"there is nothing to write to {out}: no video could be read")
    with whole_file(out) as part, open(part, "wb") as file:
        np.savez(file, features=np.stack(list(found.values())), paths=list(found))
