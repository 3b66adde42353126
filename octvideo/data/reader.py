"""One face for reading frames of a video file: `VideoReader`.

The default backend decodes with PyAV and delivers exactly the frames of a full sequential decode
while decoding only what is asked for. The optional backends live in `reader_backends`.
"""

import logging
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from octvideo.data.display import display_matrix, upright
from octvideo.data.video_index import (
    SEEKABLE,
    Run,
    VideoError,
    build_index,
    can_skip,
    check_pixels,
    frame_rate,
    named_errors,
    open_video,
    plan_runs,
)

__all__ = ["BACKENDS", "VideoError", "VideoReader"]

logger = logging.getLogger(__name__)

BACKENDS = ("pyav", "decord", "torchcodec")
MAX_PIXELS = 8192 * 8192  # twice an 8K picture; 201 MB as RGB
MAX_MISSING = 0.1


class Backend(Protocol):
    """What stands behind `VideoReader`: `read` takes ascending, unique, valid indices."""

    num_frames: int
    fps: float

    def read(self, indices: list[int]) -> np.ndarray: ...
    def close(self) -> None: ...


def check_backend(name: str) -> None:
    """Raises ValueError for an unknown backend, ImportError (what to install) for a missing one."""
    if name not in BACKENDS:
        raise ValueError(f"unknown video backend {name!r}; known: {', '.join(BACKENDS)}")
    if name != "pyav":
        from octvideo.data import reader_backends

        reader_backends.import_backend(name)


class VideoReader:
    """Frames of one video file by index, upright, as a full sequential decode delivers them.

    Opening reads through the packets (1-2 ms for a clip) and decodes none of them, and a call
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
            the last frame that does is repeated, with one warning per reader; beyond it a frame
            that does not exist is a `VideoError`. PyAV only; damaged data is always an error.
        in_order: read without seeks, for calls that go through all frames part by part. PyAV only.

    Attributes:
        num_frames: number of frames, as far as it can be known without decoding them.
        fps: average frames per second, also where the rate varies.

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
    ) -> None:
        check_backend(backend)
        self.path = os.fspath(path)
        self._size: tuple[int, int] | None = None
        self._closed = False
        self._backend: Backend
        with named_errors(self.path):
            if backend == "pyav":
                self._backend = PyAVBackend(self.path, max_pixels, max_missing, in_order)
            else:
                from octvideo.data import reader_backends

                self._backend = reader_backends.open_backend(backend, self.path, max_pixels)
        self.num_frames = self._backend.num_frames
        self.fps = self._backend.fps
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
        if self._closed:
            raise ValueError(f"{self.path}: the reader is closed")
        asked = np.asarray(indices)
        if asked.size == 0:
            return np.empty((0, *self.size, 3), np.uint8)
        if asked.ndim != 1 or asked.dtype.kind not in "iu":
            raise TypeError(f"frame indices must be a row of integers, got {indices!r}")
        if asked.min() < 0 or asked.max() >= self.num_frames:
            raise IndexError(
                f"{self.path}: frames {asked.min()} to {asked.max()} asked for, "
                f"the file has 0 to {self.num_frames - 1}"
            )
        unique, place = np.unique(asked, return_inverse=True)
        with named_errors(self.path):
            frames = self._backend.read(unique.tolist())
        self._size = frames.shape[1:3]
        in_order = len(unique) == len(asked) and bool((np.diff(place) > 0).all())
        return frames if in_order else frames[place]

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


class PyAVBackend:
    """Frame-exact reading with PyAV.

    Frames are found by timestamp, after a seek to the keyframe before them. Wherever that does not
    give exactly the frames asked for, the reader turns for good to decoding in order and counting.
    """

    def __init__(
        self, path: str, max_pixels: int, max_missing: float, in_order: bool = False
    ) -> None:
        self.path = path
        self.max_pixels = max_pixels
        self.max_missing = max_missing
        self._container, self._stream = open_video(path, max_pixels)
        try:
            self._open(in_order)
        except BaseException:
            self.close()
            raise

    def _open(self, in_order: bool) -> None:
        stream, context = self._stream, self._stream.codec_context
        self.fps = frame_rate(self.path, stream)
        self.index = build_index(self._container, stream)
        self.num_frames = self.index.count
        self._check_missing(self.num_frames, self.index.announced)
        self._declared = (context.width, context.height)
        self._first: tuple[int, int] | None = None
        self._skips = can_skip(stream)
        self._seekable = self.index.seekable and not in_order
        self._primed = False
        self._in_order: Iterator[VideoFrame] | None = None
        self._next = 0  # number of the frame that `_in_order` gives next
        self._end: int | None = None  # number of frames that decode, once known
        if not self.index.exact and self._container.format.name != "avi":
            self._count()

    def read(self, indices: list[int]) -> np.ndarray:
        if not self._seekable:
            return self._read_in_order(indices)
        self._in_order = None  # its position is lost with the first seek
        try:
            frames = self._read_by_timestamp(indices)
        except av.FFmpegError:
            frames = None
        if frames is None:
            frames = self._read_in_order(indices)
            self._seekable = False
            logger.info("%s: seeks do not give the frames of the index, read in order", self.path)
        return frames

    def close(self) -> None:
        self._in_order = None
        self._container.close()

    def _read_by_timestamp(self, indices: list[int]) -> np.ndarray | None:
        """The frames, or None if one of them did not come where the index says."""
        row = {self.index.shown[i]: n for n, i in enumerate(indices)}
        out = None
        for run in plan_runs(self.index, row):
            missing = set(run.wanted)
            for frame in self._decode_run(run):
                if frame.pts is None or frame.pts < run.start:
                    continue  # refers to what was not decoded
                self._check_sound(frame, bisect_left(self.index.shown, frame.pts))
                if frame.pts in missing:
                    missing.remove(frame.pts)
                    out = self._store(frame, out, row[frame.pts], len(row))
            if missing:
                return None
        return out

    def _decode_run(self, run: Run) -> Iterator[VideoFrame]:
        wanted, context = set(run.wanted), self._stream.codec_context
        if not self._primed:
            self._prime()
        self._container.seek(run.start, stream=self._stream)
        for packet in self._container.demux(self._stream):
            if packet.size == 0:
                continue
            if self._skips:  # nobody refers to these frames, the others stay as they are
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from context.decode(packet)
            if packet.pts == run.stop:
                break
        yield from context.decode(None)

    def _prime(self) -> None:
        """Decode the first packet: the decoder's parameters may come with it and never again."""
        self._container.seek(self.index.keys[0][0], stream=self._stream)
        packet = next(p for p in self._container.demux(self._stream) if p.size)
        context = self._stream.codec_context
        if context.name == "h264":  # takes the parameters also from frames that it leaves out
            context.skip_frame = "ALL"
        context.decode(packet)
        context.skip_frame = "DEFAULT"
        self._primed = True

    def _read_in_order(self, indices: list[int]) -> np.ndarray:
        if self._end is not None and indices[-1] >= self._end:
            kept, place = np.unique(np.minimum(indices, self._end - 1), return_inverse=True)
            return self._read_in_order(kept.tolist())[place]
        if self._in_order is None or indices[0] < self._next:
            self._restart()
        assert self._in_order is not None
        row = {i: n for n, i in enumerate(indices)}
        out = None
        while self._next <= indices[-1]:
            try:
                frame = next(self._in_order, None)
            except av.FFmpegError as error:
                self._in_order = None
                reason = f"decoding stops at frame {self._next} of {self.num_frames}"
                raise VideoError(self.path, f"{reason}: {error.strerror}") from error
            if frame is None:
                self._in_order = None
                self._check_missing(self._next, self.num_frames)
                self._end = self._next
                return self._read_in_order(indices)
            self._check_sound(frame, self._next)
            if self._next in row:
                out = self._store(frame, out, row[self._next], len(row))
            self._next += 1
        assert out is not None
        return out

    def _restart(self) -> None:
        self._container.close()
        self._container, self._stream = open_video(self.path, self.max_pixels)
        self._in_order, self._next = _decode_all(self._container, self._stream), 0

    def _count(self) -> None:
        """Set `num_frames` to what decodes."""
        self._restart()
        assert self._in_order is not None
        decoded = sum(1 for _ in self._in_order)
        if self._container.format.name in SEEKABLE:  # elsewhere a packet may be half a frame
            self._check_missing(decoded, self.num_frames)
        self._in_order, self.num_frames, self._end = None, decoded, decoded

    def _check_missing(self, there: int, announced: int) -> None:
        """A few frames fewer than announced are reported, more are an error."""
        if there >= announced:
            return
        found = f"only {there} of {announced} announced frames are there"
        if there == 0 or announced - there > self.max_missing * announced:
            raise VideoError(self.path, f"{found} (max_missing={self.max_missing})")
        logger.warning("%s: %s", self.path, found)

    def _check_sound(self, frame: VideoFrame, number: int) -> None:
        """Damage that the decoder has painted over is an error, also for what refers to it."""
        if frame.is_corrupt:
            self._in_order = None
            raise VideoError(self.path, f"frame {number} of {self.num_frames} is damaged")

    def _store(self, frame: VideoFrame, out: np.ndarray | None, row: int, rows: int) -> np.ndarray:
        """Put a frame, as upright RGB in the size of the file's first, into row `row`."""
        check_pixels(self.path, frame.width, frame.height, self.max_pixels)
        width, height = self._declared
        if (frame.width, frame.height) != (width, height):
            width, height = self._first_size()
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
        rgb = upright(rgb, display_matrix(frame))
        if out is None:
            out = np.empty((rows, *rgb.shape), np.uint8)
        elif out.shape[1:] != rgb.shape:
            raise VideoError(self.path, "the rotation changes between frames")
        out[row] = rgb
        return out

    def _first_size(self) -> tuple[int, int]:
        """(width, height) of the first frame, for files that declare another or change it."""
        if self._first is None:
            container, stream = open_video(self.path, self.max_pixels)
            with container:
                frame = next(_decode_all(container, stream))
                self._first = (frame.width, frame.height)
        return self._first


def _decode_all(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        if packet.size:
            yield from stream.codec_context.decode(packet)
    yield from stream.codec_context.decode(None)
