"""The frames of one file: what every source opens, whatever the file is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch

from octvideo.data.read.packet_index import VideoError, named_errors
from octvideo.data.read.timing import Timing

PART_BYTES = 32 * 2**20  # decoded frames that are converted at once

Convert = Callable[[np.ndarray], torch.Tensor]
Part = tuple[list[int], np.ndarray]
Self = TypeVar("Self", bound="Frames")


class Frames(ABC):
    """The frames of a file by index: uint8 (T, H, W, C), all of one size.

    A kind of file says how to `read`, and sets the attributes.

    Attributes:
        path: the file.
        num_frames: how many frames there are.
        timing: frames per second, and when each frame is shown where that rate varies.
    """

    path: str
    num_frames: int
    timing: Timing
    _closed = False
    _size: tuple[int, int] | None = None

    @abstractmethod
    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields each index with its frame, uint8 (H, W, C), in any order; a frame may be a view.

        ``indices`` are valid, ascending and unique, at least one.

        Raises:
            VideoError: a frame cannot be read.
        """

    @property
    def size(self) -> tuple[int, int]:
        """Returns (height, width). Reads the first frame if nothing has been read before."""
        if self._size is None:
            self.get([0])
        assert self._size is not None
        return self._size

    @property
    def fps(self) -> float:
        return self.timing.fps

    def get(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns frames `indices`, in the order asked, repeats allowed: uint8 (T, H, W, C).

        One pass through the file, whatever the order. Ask for all frames of a file at once.

        Raises:
            IndexError: an index is negative or not below `num_frames`.
            TypeError: indices that are not a row of integers.
            ValueError: the file has been closed.
            VideoError: a frame asked for cannot be read.
        """
        unique, place = self._checked(indices)
        if not unique:
            return np.empty((0, *self.size, 3), np.uint8)
        [(_, frames)] = self._parts(unique, math.inf)
        return frames if place is None else frames[place]

    def clip(self, indices: Sequence[int] | np.ndarray) -> Callable[[Convert], torch.Tensor]:
        """Reads frames to be converted, in little memory however large they are.

        The result takes a function that converts uint8 frames (t, H, W, 3), each by itself, into a
        tensor (C, t, h, w), and gives this for all the frames: (C, T, h, w). Frames of more than
        PART_BYTES are read and converted part by part; all others are read once, however often
        they are converted.

        Raises:
            IndexError, TypeError, VideoError: as `get`.
            ValueError: there are no indices, or the file has been closed.
        """
        unique, place = self._checked(indices)
        if not unique:
            raise ValueError("a clip has at least one frame")
        parts = self._parts(unique, PART_BYTES)
        first = next(parts)
        whole = first[1] if len(first[0]) == len(unique) else None
        parts = chain([first], parts)
        del first

        def converted(convert: Convert) -> torch.Tensor:
            nonlocal parts
            if whole is not None:
                video = convert(whole)
            else:
                video = _joined(convert, parts, len(unique))
                parts = self._parts(unique, PART_BYTES)  # if there is a next time
            return video if place is None else video[:, place]

        return converted

    def _checked(self, indices: Sequence[int] | np.ndarray) -> tuple[list[int], np.ndarray | None]:
        """Returns the different indices, ascending, and where each one asked for is among them.

        None where that is the order asked for.
        """
        if self._closed:
            raise ValueError(f"{self.path}: the reader is closed")
        asked = np.asarray(indices)
        if asked.size == 0:
            return [], None
        if asked.ndim != 1 or asked.dtype.kind not in "iu":
            raise TypeError(f"frame indices must be a row of integers, got {indices!r}")
        if asked.min() < 0 or asked.max() >= self.num_frames:
            raise IndexError(
                f"{self.path}: frames {asked.min()} to {asked.max()} asked for, "
                f"the file has 0 to {self.num_frames - 1}"
            )
        unique, place = np.unique(asked, return_inverse=True)
        in_order = len(unique) == len(asked) and bool((np.diff(place) > 0).all())
        return unique.tolist(), None if in_order else place

    def _parts(self, indices: list[int], part_bytes: float) -> Iterator[Part]:
        """Yields rows of `indices`, and their frames (t, H, W, C), of about `part_bytes`.

        A part is overwritten by the next one.
        """
        row = {index: n for n, index in enumerate(indices)}
        rows: list[int] = []
        out = np.empty((0, 0, 0, 3), np.uint8)
        with named_errors(self.path):
            for done, (index, frame) in enumerate(self.read(indices)):
                if not rows:
                    count = min(len(indices) - done, max(1, part_bytes / frame.nbytes))
                    if len(out) == 0:
                        out = np.empty((int(count), *frame.shape), np.uint8)
                        self._size = frame.shape[:2]
                    out = out[: int(count)]
                if out.shape[1:] != frame.shape:
                    raise VideoError(self.path, "the size or rotation changes between frames")
                out[len(rows)] = frame
                rows.append(row[index])
                if len(rows) == len(out):
                    in_order = rows == sorted(rows)
                    yield sorted(rows), out if in_order else out[np.argsort(rows)]
                    rows = []

    def close(self) -> None:
        """Releases the file. Reading afterwards is a ValueError, closing again is not."""
        self._closed = True

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _joined(convert: Convert, parts: Iterator[Part], count: int) -> torch.Tensor:
    """Converts all parts into (C, count, h, w), each frame in its row."""
    video: torch.Tensor | None = None
    for rows, frames in parts:
        part = convert(frames)
        if video is None:
            video = part.new_empty(len(part), count, *part.shape[2:])
        video[:, rows] = part
    assert video is not None
    return video
