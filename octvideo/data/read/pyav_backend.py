"""The default backend of `VideoReader`: decodes with PyAV what is asked for and little more."""

import logging
from bisect import bisect_left
from collections.abc import Iterator

import av
import numpy as np
from av.video.frame import VideoFrame

from octvideo.data.read.decoding import decode_all, decode_sound, filled
from octvideo.data.read.display import display_matrix, square_size, upright
from octvideo.data.read.packet_index import (
    SEEKABLE,
    Run,
    VideoError,
    can_skip,
    check_pixels,
    frame_timing,
    open_indexed,
    open_video,
    plan_runs,
)
from octvideo.data.read.timing import display_times

logger = logging.getLogger(__name__)


class PyAVBackend:
    """Frame-exact reading with PyAV.

    Frames are found by timestamp, after a seek to the keyframe before them. Wherever that does not
    give exactly the frames asked for, the reader turns for good to decoding in order and counting.
    """

    def __init__(
        self,
        path: str,
        max_pixels: int,
        max_missing: float,
        in_order: bool = False,
        square_pixels: bool = False,
        partial: bool = False,
    ) -> None:
        self.path = path
        self.partial = partial
        self.left_out: list[int] = []
        self.max_pixels = max_pixels
        self.max_missing = max_missing
        self._last: VideoFrame | None = None  # what `_in_order` gave last
        self._reported = 0  # missing frames that a warning has counted
        self._container, self._stream, self.index = open_indexed(
            path, max_pixels, allow_damage=partial
        )
        try:
            self._open(in_order)
            # Of the container or, where it says nothing, of the codec.
            self._pixel_ratio = self._stream.sample_aspect_ratio if square_pixels else None
        except BaseException:
            self.close()
            raise

    def _open(self, in_order: bool) -> None:
        stream, context = self._stream, self._stream.codec_context
        self.num_frames = self.index.count
        if not self.partial:
            self._check_missing(self.num_frames, self.index.announced)
        self._declared = (context.width, context.height)
        self._first: tuple[int, int] | None = None
        self._skips = can_skip(stream)
        self._seekable = self.index.seekable and not in_order and not self.partial
        self._primed = False
        self._in_order: Iterator[VideoFrame] | None = None
        self._next = 0  # number of the frame that it gives next
        self._end: int | None = None  # number of frames that decode, once known
        times = self.index.times
        if self.partial or (not self.index.exact and self._container.format.name != "avi"):
            times = self._count()
        # Not `stream`: `_count` opens another one.
        self.timing = frame_timing(self.path, self._stream, times, self.num_frames)

    def read(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        left = dict.fromkeys(indices)
        if self._seekable:
            self._in_order = self._last = None  # a seek loses its position
            try:
                for number, frame in self._by_timestamp(indices):
                    del left[number]
                    yield number, self._upright(frame)
            except av.FFmpegError as error:
                logger.debug("%s: %s", self.path, error)
            if not left:
                return
        for number in left:
            yield number, self._upright(self._by_order(number))
        if self._seekable:
            self._seekable = False
            logger.info("%s: seeks do not give the frames of the index, read in order", self.path)

    def close(self) -> None:
        self._in_order = self._last = None
        self._container.close()

    def _by_timestamp(self, indices: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yields number and frame; ends early if one does not come where the index says."""
        number = {self.index.shown[i]: i for i in indices}
        for run in plan_runs(self.index, number):
            missing = set(run.wanted)
            for frame in self._decode_run(run):
                if frame.pts is None or frame.pts < run.start:
                    continue  # refers to what was not decoded
                self._check_sound(frame, bisect_left(self.index.shown, frame.pts))
                if frame.pts in missing:
                    missing.remove(frame.pts)
                    yield number[frame.pts], frame
            if missing:
                return

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
        """Decodes the first packet: the decoder's parameters may come with it and never again."""
        self._container.seek(self.index.keys[0][0], stream=self._stream)
        packet = next(p for p in self._container.demux(self._stream) if p.size)
        context = self._stream.codec_context
        if context.name == "h264":  # takes the parameters also from frames that it leaves out
            context.skip_frame = "ALL"
        context.decode(packet)
        context.skip_frame = "DEFAULT"
        self._primed = True

    def _by_order(self, number: int) -> VideoFrame:
        """Returns frame `number`, counted from the start; behind the end, the last one."""
        if self._end is not None:
            number = min(number, self._end - 1)
        if self._last is None or number < self._next - 1:
            self._restart()
        assert self._in_order is not None
        while self._next <= number:
            try:
                frame = next(self._in_order, None)
            except av.FFmpegError as error:
                self._last = None
                reason = f"decoding stops at frame {self._next} of {self.num_frames}"
                raise VideoError(self.path, f"{reason}: {error.strerror}") from error
            if frame is None:
                self._check_missing(self._next, self.num_frames)
                self._end = self._next
                break
            self._check_sound(frame, self._next)
            self._last, self._next = frame, self._next + 1
        assert self._last is not None
        return self._last

    def _restart(self) -> None:
        self._container.close()
        self._container, self._stream = open_video(self.path, self.max_pixels)
        self._last, self._next = None, 0
        if self.partial:
            self._in_order = decode_sound(self._container, self._stream)
        else:
            frames = decode_all(self._container, self._stream)
            shown = self.index.shown if self.index.seekable else []
            self._in_order = filled(frames, shown, self._check_missing)

    def _count(self) -> np.ndarray:
        """Sets `num_frames` to what decodes. Returns when these frames are shown, as in `Index`."""
        self._restart()
        assert self._in_order is not None
        stamps = [(frame.pts, frame.pts) for frame in self._in_order]
        decoded = len(stamps)
        if self.partial:
            there = {pts for pts, _ in stamps}
            self.left_out = [n for n, pts in enumerate(self.index.shown) if pts not in there]
        elif self._container.format.name in SEEKABLE:  # elsewhere a packet may be half a frame
            self._check_missing(decoded, self.num_frames)
        self._last, self.num_frames, self._end = None, decoded, decoded
        return display_times(stamps, self._stream, self._container)

    def _check_missing(self, there: int, announced: int) -> None:
        """Reports a few frames fewer than announced; more are an error."""
        missing = announced - there
        if missing <= 0:
            return
        found = f"only {there} of {announced} announced frames are there"
        if there == 0 or missing > self.max_missing * announced:
            self._last = None
            raise VideoError(self.path, f"{found} (max_missing={self.max_missing})")
        if missing > self._reported:  # reading in order may come across a gap several times
            logger.warning("%s: %s", self.path, found)
            self._reported = missing

    def _check_sound(self, frame: VideoFrame, number: int) -> None:
        """Raises an error for damage that the decoder has painted over."""
        if frame.is_corrupt:
            self._last = None
            raise VideoError(self.path, f"frame {number} of {self.num_frames} is damaged")

    def _upright(self, frame: VideoFrame) -> np.ndarray:
        """Returns RGB in the size of the file's first frame; may be a view."""
        check_pixels(self.path, frame.width, frame.height, self.max_pixels)
        width, height = self._declared
        if (frame.width, frame.height) != (width, height):
            width, height = self._first_size()
        width, height = square_size(width, height, self._pixel_ratio)
        check_pixels(self.path, width, height, self.max_pixels)
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
        return upright(rgb, display_matrix(frame))

    def _first_size(self) -> tuple[int, int]:
        """Returns (width, height) of the first frame, for files that declare another one."""
        if self._first is None:
            container, stream = open_video(self.path, self.max_pixels)
            with container:
                frame = next(decode_all(container, stream))
                self._first = (frame.width, frame.height)
        return self._first
