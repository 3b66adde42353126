"""One face for reading frames of a video file: `VideoReader`.

The default backend decodes with PyAV and delivers exactly the frames of a full sequential decode
while decoding only what is asked for (`pyav_backend`). The optional ones are in `reader_backends`.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
import torch

from octvideo.data.read.packet_index import VideoError, named_errors
from octvideo.data.read.pyav_backend import PyAVBackend
from octvideo.data.read.timing import Timing

__all__ = ["BACKENDS", "Decoding", "VideoError", "VideoReader"]

logger = logging.getLogger(__name__)

BACKENDS = ("pyav", "decord", "torchcodec")
MAX_PIXELS = 8192 * 8192  # twice an 8K picture; 201 MB as RGB
MAX_MISSING = 0.1
PART_BYTES = 32 * 2**20  # decoded frames that are converted at once

Convert = Callable[[np.ndarray], torch.Tensor]
T = TypeVar("T")
Part = tuple[list[int], np.ndarray]


class Backend(Protocol):
    """What stands behind `VideoReader`.

    `read` takes ascending, unique, valid indices and gives each with its frame (H, W, 3).
    """

    num_frames: int
    timing: Timing

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]: ...
    def close(self) -> None: ...


def check_backend(name: str) -> None:
    """Raises ValueError for an unknown backend, ImportError (what to install) for a missing one."""
    if name not in BACKENDS:
        raise ValueError(f"unknown video backend {name!r}; known: {', '.join(BACKENDS)}")
    if name != "pyav":
        from octvideo.data.read import backends

        backends.import_backend(name)


class VideoReader:
    """Frames of one video file by index, upright, as a full sequential decode delivers them.

    Opening reads through the packets (about 2 ms for a clip) and decodes none of them, and a call
    decodes from the keyframe before a frame asked for. Two kinds of file cost more:

    * MP4 and Matroska are read with seeks; all others (AVI, MPEG-TS, raw streams...) without: a
      call decodes on from where the last one ended, or from the start of the file to go back.
    * Where packets do not tell the frames (timestamps missing, doubled, or before the first
      keyframe), opening decodes the whole file once to count, and it is read without seeks.

    A file whose picture size changes on the way is delivered in the size of its first frame.

    Args:
        path: a file on disk.
        backend: "pyav", or "decord" or "torchcodec" if that extra is installed.
        max_pixels: a larger picture is a `VideoError` before it is converted. The default passes
            8K and stops what would take hundreds of megabytes a frame, or a header that lies.
        min_frames: a file with fewer frames is a `VideoError`.
        max_missing: the fraction of the announced frames that may turn out not to exist. Up to it
            the frame before it is repeated, with a warning; beyond it a frame that does not exist
            is a `VideoError`. PyAV only. Damage that FFmpeg sees is an error.
        in_order: read without seeks, for calls that go through all frames part by part. PyAV only.
        allow_partial: take what there is of a damaged file. Opening decodes all of it, and what is
            damaged, missing, or refers to such frames is left out and not counted. PyAV only.
        square_pixels: resize frames whose pixels are not square, as players do. Otherwise frames
            have the pixels that are stored.

    Attributes:
        num_frames: number of frames, as far as it can be known without decoding them.
        fps: average frames per second, also where the rate varies: by the frames' time stamps,
            unless they agree with the rate that the file declares.
        timing: when the frames are shown where the rate varies, and `fps`.
        left_out: with allow_partial, the frames of the index that are left out: their numbers in
            the whole file.

    Raises:
        VideoError: names the file, whatever the decoder or the system complained about.
        ValueError: unknown backend.
        ImportError: the backend is not installed; says what to install.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        backend: str = "pyav",
        *,
        max_pixels: int = MAX_PIXELS,
        min_frames: int = 1,
        max_missing: float = MAX_MISSING,
        in_order: bool = False,
        square_pixels: bool = False,
        allow_partial: bool = False,
    ) -> None:
        check_backend(backend)
        self.path = os.fspath(path)
        self._size: tuple[int, int] | None = None
        self._closed = False
        self._backend: Backend
        with named_errors(self.path):
            if backend == "pyav":
                self._backend = PyAVBackend(
                    self.path, max_pixels, max_missing, in_order, square_pixels, allow_partial
                )
            else:
                from octvideo.data.read import backends

                self._backend = backends.open_backend(backend, self.path, max_pixels, square_pixels)
        self.num_frames = self._backend.num_frames
        self.fps = self._backend.timing.fps
        self.timing = self._backend.timing
        self.left_out: list[int] = getattr(self._backend, "left_out", [])
        if self.num_frames < max(min_frames, 1):
            self.close()
            raise VideoError(
                self.path, f"has {self.num_frames} frames, at least {max(min_frames, 1)} needed"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), upright. Decodes the first frame if nothing has been read before."""
        if self._size is None:
            self.get_frames([0])
        assert self._size is not None
        return self._size

    def get_frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames `indices`, in the order asked, repeats allowed: uint8 (T, H, W, 3), RGB.

        One pass through the file, whatever the order. Ask for all frames of a video at once.

        Raises:
            IndexError: an index is negative or not below `num_frames`.
            TypeError: indices that are not a row of integers.
            VideoError: a frame asked for cannot be decoded.
        """
        unique, place = self._checked(indices)
        if not unique:
            return np.empty((0, *self.size, 3), np.uint8)
        [(_, frames)] = self._parts(unique, math.inf)
        return frames if place is None else frames[place]

    def clip(self, indices: Sequence[int] | np.ndarray) -> Callable[[Convert], torch.Tensor]:
        """`get_frames` and a conversion of the frames, in little memory however large they are.

        The result takes a function that converts uint8 frames (t, H, W, 3), each by itself, into a
        tensor (C, t, h, w), and gives this for all the frames: (C, T, h, w). Frames of more than
        PART_BYTES are decoded and converted part by part; all others are decoded once, however
        often they are converted.

        Raises:
            IndexError, TypeError, VideoError: as `get_frames`.
            ValueError: there are no indices, or the reader is closed.
        """
        unique, place = self._checked(indices)
        if not unique:
            raise ValueError("a clip has at least one frame")
        parts: Iterator[Part] = self._parts(unique, PART_BYTES)
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
        """The different indices, ascending, and where each one asked for is among them.

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
        """Rows of `indices`, and their frames (t, H, W, 3), of about `part_bytes`.

        A part is overwritten by the next one.
        """
        row = {index: n for n, index in enumerate(indices)}
        rows: list[int] = []
        out = np.empty((0, 0, 0, 3), np.uint8)
        with named_errors(self.path):
            for done, (index, frame) in enumerate(self._backend.read(indices)):
                if not rows:
                    count = min(len(indices) - done, max(1, part_bytes / frame.nbytes))
                    if len(out) == 0:
                        out = np.empty((int(count), *frame.shape), np.uint8)
                        self._size = frame.shape[:2]
                    out = out[: int(count)]
                if out.shape[1:] != frame.shape:
                    raise VideoError(self.path, "the rotation changes between frames")
                out[len(rows)] = frame
                rows.append(row[index])
                if len(rows) == len(out):
                    in_order = rows == sorted(rows)
                    yield sorted(rows), out if in_order else out[np.argsort(rows)]
                    rows = []

    def close(self) -> None:
        """Release the file. Reading afterwards is a ValueError, closing again is not."""
        self._closed = True
        self._backend.close()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Decoding:
    """How the videos of a data set are opened: arguments of `VideoReader`."""

    backend: str = "pyav"
    square_pixels: bool = False
    allow_partial: bool = False

    def use(self, path: str, function: Callable[[VideoReader], T]) -> T:
        """Returns ``function(reader)`` for a reader of the file.

        With allow_partial, a damaged file is opened a second time, with a reader of the frames that
        decode, and a warning says what is left out. A sound file is never decoded as a whole.

        Raises:
            VideoError: as of `VideoReader` and of ``function``.
        """
        try:
            with VideoReader(path, **{**asdict(self), "allow_partial": False}) as reader:
                return function(reader)
        except VideoError as error:
            if not self.allow_partial:
                raise
            with VideoReader(path, **asdict(replace(self, backend="pyav"))) as reader:
                used = f"the {reader.num_frames} frames that decode are used"
                without = f", without {_ranges(reader.left_out)}" if reader.left_out else ""
                logger.warning("%s: %s; %s%s", path, error.reason, used, without)
                return function(reader)


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers in words: 3, 5-9, 12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _joined(convert: Convert, parts: Iterator[Part], count: int) -> torch.Tensor:
    """(C, count, h, w): `convert` of all parts, each frame in its row."""
    video: torch.Tensor | None = None
    for rows, frames in parts:
        part = convert(frames)
        if video is None:
            video = part.new_empty(len(part), count, *part.shape[2:])
        video[:, rows] = part
    assert video is not None
    return video
