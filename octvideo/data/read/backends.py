"""The optional backends of `VideoReader`: decord and torchcodec, imported when asked for.

Both count and find frames in their own way, which is not always that of a sequential decode. Where
that can be seen from the packets when a file is opened, it is a `VideoError` rather than wrong
frames. Frames of ordinary 8-bit H.264 equal PyAV's, bit for bit; interlaced, 10-bit and HDR
frames may differ in colour, and decord 0.6 is known to mix up frames of some HEVC files.
"""

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
from av.video.frame import VideoFrame

from octvideo.data.read.display import display_matrix, square_size, upright
from octvideo.data.read.packet_index import (
    VideoError,
    check_pixels,
    descriptor,
    frame_timing,
    open_indexed,
    open_video,
)
from octvideo.data.read.timing import Timing
from octvideo.utils.extras import install_command

_BATCH_BYTES = 64 * 2**20  # decoded frames that a library holds at once


def open_backend(
    name: str, path: str, max_pixels: int, square_pixels: bool = False
) -> "DisplayedBackend":
    """Opens "decord" or "torchcodec", for files whose packets it can be trusted with."""
    module = import_backend(name)
    container, stream, index = open_indexed(path, max_pixels)
    with container:
        is_avi, is_mp4 = container.format.name == "avi", "mp4" in container.format.name
        # Each library estimates the rate its own way; sampling needs one answer.
        clock = frame_timing(path, stream, index.times, index.count)
        stream_index = stream.index
        pixel_ratio = stream.sample_aspect_ratio if square_pixels else None
    # decord searches for ever for a first keyframe that was cut off; torchcodec miscounts in AVI.
    if not index.seekable and not (is_avi and name == "decord"):
        raise VideoError(path, f'{name} is not dependable on such a file; use backend "pyav"')
    # `open_video` admits no playlists. A file name as a pattern ("a%03d.png") would be read as
    # several images, so the libraries get a name that says nothing.
    with descriptor(path) as number:
        source = f"/dev/fd/{number}"
        if name == "decord":
            reader: DecordBackend | TorchCodecBackend = DecordBackend(module, path, source)
        else:
            reader = TorchCodecBackend(module, path, source, stream_index)
    if reader.num_frames != index.count:
        reader.close()
        counts = f"{name} counts {reader.num_frames} frames, the packets say {index.count}"
        raise VideoError(path, f'{counts}; use backend "pyav"')
    first = first_frame(path, max_pixels)
    size = square_size(first.width, first.height, pixel_ratio)
    check_pixels(path, *size, max_pixels)
    # Of a display matrix, these libraries do the rotation alone, and decord does it in mp4 alone.
    turns = round(first.rotation / 90) if is_mp4 or name == "torchcodec" else 0
    return DisplayedBackend(reader, clock, first, size, turns)


def first_frame(path: str, max_pixels: int) -> VideoFrame:
    """Returns the first frame of a video, as PyAV decodes it."""
    container, stream = open_video(path, max_pixels)
    with container:
        for frame in container.decode(stream):
            return frame
    raise VideoError(path, "has 0 frames that can be decoded")


def import_backend(name: str) -> ModuleType:
    """Returns the package of a backend; raises an ImportError that says what to install."""
    try:
        return importlib.import_module("torchcodec.decoders" if name == "torchcodec" else name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        hint = install_command(name)
        raise ImportError(f'video backend "{name}" is not installed: {hint}') from error
    except (OSError, RuntimeError) as error:  # torchcodec looks for FFmpeg's libraries
        reason = str(error).strip().splitlines()[0]
        raise ImportError(
            f'video backend "{name}" is installed but does not load, it needs the shared libraries '
            f"of FFmpeg on this machine: {reason}"
        ) from error


class DecordBackend:
    """`decord.VideoReader` on the CPU with one thread."""

    def __init__(self, decord: ModuleType, path: str, source: str) -> None:
        self.path = path
        self._error = decord.DECORDError
        try:
            self._reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
            self.num_frames = len(self._reader)
        except self._error as error:
            reason = _last_line(error)
            if "broken metadata" in reason:  # such as WebM of a browser, without a frame rate
                reason = 'needs a frame rate or a duration in the header; use backend "pyav"'
            raise VideoError(path, f"decord: {reason}") from error

    def read(self, indices: list[int]) -> np.ndarray:
        try:
            return self._reader.get_batch(indices).asnumpy()
        except self._error as error:
            reason = _last_line(error)
            if "size must exactly match" in reason:  # width or height not a multiple of 16
                reason = 'cannot rotate frames of this size; use backend "pyav"'
            raise VideoError(self.path, f"decord: {reason}") from error

    def close(self) -> None:
        self._reader = None


class TorchCodecBackend:
    """`torchcodec.decoders.VideoDecoder` on the CPU with one thread and exact seeks."""

    def __init__(self, decoders: ModuleType, path: str, source: str, stream_index: int) -> None:
        self.path = path
        try:
            self._decoder = decoders.VideoDecoder(
                source,
                stream_index=stream_index,
                seek_mode="exact",
                num_ffmpeg_threads=1,
                dimension_order="NHWC",
            )
        except (RuntimeError, ValueError) as error:
            raise VideoError(path, f"torchcodec: {_last_line(error)}") from error
        self.num_frames = len(self._decoder)

    def read(self, indices: list[int]) -> np.ndarray:
        try:
            return self._decoder.get_frames_at(indices).data.numpy()
        except (RuntimeError, ValueError) as error:
            raise VideoError(self.path, f"torchcodec: {_last_line(error)}") from error

    def close(self) -> None:
        self._decoder = None


class DisplayedBackend:
    """decord or torchcodec, and what they ignore: mirroring, and pixels that are not square.

    first: the first frame as PyAV decodes it. size: (width, height) to resize frames to, before
    they are turned. turns: by how many quarters, counter-clockwise, the library turns them.
    """

    def __init__(
        self,
        reader: DecordBackend | TorchCodecBackend,
        clock: Timing,
        first: VideoFrame,
        size: tuple[int, int],
        turns: int,
    ) -> None:
        self._size, self._turns = size, turns
        self._reader = reader
        self.timing, self.num_frames = clock, reader.num_frames
        self._matrix = display_matrix(first)
        self._batch = max(1, _BATCH_BYTES // (3 * first.width * first.height))

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for n in range(0, len(indices), self._batch):
            batch = indices[n : n + self._batch]
            decoded = np.rot90(self._reader.read(batch), -self._turns, axes=(1, 2))
            for number, frame in zip(batch, decoded, strict=True):
                yield number, upright(self._resized(frame), self._matrix)

    def _resized(self, frame: np.ndarray) -> np.ndarray:
        width, height = self._size
        if frame.shape[:2] == (height, width):
            return frame
        wrapped = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        return wrapped.to_ndarray(format="rgb24", width=width, height=height, threads=1)

    def close(self) -> None:
        self._reader.close()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
