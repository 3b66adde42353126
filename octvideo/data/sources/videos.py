"""Videos in lists: Kinetics, and whatever else has a train.csv with a path and a label a line."""

import logging
from collections.abc import Callable
from typing import TypeVar

from octvideo.data.labels import class_names_beside
from octvideo.data.protocol import Protocol
from octvideo.data.read.frames import Frames
from octvideo.data.read.packet_index import VideoError
from octvideo.data.read.video import VideoReader
from octvideo.data.sources.file_list import FileList, Finding
from octvideo.data.sources.lists import (
    Unlabelled,
    find_list,
    label_findings,
    names_beside,
    read_list,
)
from octvideo.data.sources.source import Place, Source, register
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")
T = TypeVar("T")

# What does without a split, for the message where its list is missing.
_WITHOUT = {
    "train": "",
    "val": "; TRAIN.EVAL_PERIOD 0 trains without val.csv",
    "test": "; TEST.ENABLE False leaves the test out",
}


class ListedVideos(Source):
    """Video files that {train,val,test}.csv list with their labels; see `read_list`."""

    def list_files(self, place: Place, split: str) -> FileList:
        path = find_list(place.folder, split)
        if not path.is_file():
            raise UserError(
                f"there is no list of videos {path}: DATA.PATH_TO_DATA_DIR "
                f"({place.folder!r}) must be a folder with train.csv, val.csv and "
                f"test.csv, a line 'path{place.separator}label' for each video{_WITHOUT[split]}"
            )
        unlabelled: Unlabelled = "all" if split == "test" else "refuse"
        try:
            files = read_list(path, place.separator, place.prefix, place.num_classes, unlabelled)
        except OSError as error:
            raise UserError(f"the list {path} cannot be read: {error.strerror}") from error
        return files.noting(
            *label_findings(files.labels, place.num_classes, path, split == "train"),
            Finding(logging.INFO, f"{path}: {len(files)} {self.noun}"),
        )

    def class_names(self, place: Place) -> list[str] | None:
        names = class_names_beside(place.folder, place.num_classes)
        if names is None and (path := find_list(place.folder, "train")).is_file():
            names = names_beside(path, place.separator)
        return names if names is None or len(names) == place.num_classes else None

    def open(self, path: str, protocol: Protocol) -> Frames:
        backend, squares = protocol.backend, protocol.square_pixels
        return VideoReader(path, backend=backend, square_pixels=squares)

    def read(self, path: str, protocol: Protocol, function: Callable[[Frames], T]) -> T:
        """Returns ``function(frames)`` of a file.

        With protocol.allow_partial, a damaged file is opened a second time, with a reader of the
        frames that decode, and a warning says what is left out. A sound file is never decoded as a
        whole.

        Raises:
            VideoError: as of `VideoReader` and of ``function``.
        """
        try:
            return super().read(path, protocol, function)
        except VideoError as error:
            if not protocol.allow_partial:
                raise
            squares = protocol.square_pixels
            with VideoReader(path, allow_partial=True, square_pixels=squares) as reader:
                used = f"the {reader.num_frames} frames that decode are used"
                without = f", without {_ranges(reader.left_out)}" if reader.left_out else ""
                logger.warning("%s: %s; %s%s", path, error.reason, used, without)
                return function(reader)


def _ranges(numbers: list[int]) -> str:
    """Writes ascending numbers in words: 3, 5-9, 12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


register("kinetics", ListedVideos())
