"""One face for reading frames of a video file: `VideoReader`.

The default backend decodes with PyAV and delivers exactly the frames of a full sequential decode
while decoding only what is asked for (`pyav_backend`). The optional ones are in `backends`.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from octvideo.data.read.frames import Frames
from octvideo.data.read.packet_index import VideoError, named_errors
from octvideo.data.read.pyav_backend import PyAVBackend
from octvideo.data.read.timing import Timing
from octvideo.utils.errors import check_known

__all__ = ["BACKENDS", "VideoError", "VideoReader"]

BACKENDS = ("pyav", "decord", "torchcodec")
MAX_PIXELS = 8192 * 8192  # twice an 8K frame; 201 MB as RGB
MAX_MISSING = 0.1


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
    check_known("video backend", name, BACKENDS)
    if name != "pyav":
        from octvideo.data.read import backends

        backends.import_backend(name)


class VideoReader(Frames):
    """Frames of one video file by index, upright, as a full sequential decode delivers them.

    Opening reads through the packets (about 2 ms for a clip) and decodes none of them, and a call
    decodes from the keyframe before a frame asked for. Two kinds of file cost more:

    * MP4 and Matroska are read with seeks; all others (AVI, MPEG-TS, raw streams...) without: a
      call decodes on from where the last one ended, or from the start of the file to go back.
    * If packets do not identify the frames (timestamps missing, doubled, or before the first
      keyframe), opening decodes the whole file once to count, and it is read without seeks.

    A file whose frame size changes on the way is delivered in the size of its first frame.

    Args:
        path: a file on disk.
        backend: "pyav", or "decord" or "torchcodec" if that extra is installed.
        max_pixels: a larger frame is a `VideoError` before it is converted. The default passes
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
        self.timing = self._backend.timing
        self.left_out: list[int] = getattr(self._backend, "left_out", [])
        if self.num_frames < max(min_frames, 1):
            self.close()
            raise VideoError(
                self.path, f"has {self.num_frames} frames, at least {max(min_frames, 1)} needed"
            )

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        yield from self._backend.read(indices)

    def get_frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns `get`, by its older name."""
        return self.get(indices)

    def close(self) -> None:
        super().close()
        self._backend.close()
