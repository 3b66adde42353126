"""Checks of video files, and their re-encoding for quick random access."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from octvideo.data.read.video import VideoReader
from octvideo.data.transforms import short_side_size
from octvideo.utils.files import whole_file

_CHUNK_BYTES = 64 * 2**20  # decoded frames held at once


@dataclass(frozen=True)
class VideoFacts:
    """What a file is: number of frames, frames per second, upright size in pixels."""

    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class Encoding:
    """How files are re-encoded: H.264, short side in pixels, frames from keyframe to keyframe.

    crf is x264's quality: smaller is better and larger.
    """

    short_side: int = 256
    gop: int = 12
    crf: int = 18

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise ValueError(f"the short side must be even and at least 16, got {self.short_side}")
        if self.gop < 1 or not 0 <= self.crf <= 51:
            raise ValueError(f"impossible encoding: gop {self.gop} (from 1), crf {self.crf} (0-51)")


def check_video(path: str | Path, every_frame: bool = False) -> VideoFacts:
    """Opens a file, makes its index, and decodes the first, middle and last frame (or all).

    Raises:
        VideoError: names the file, and what is wrong with it.
    """
    with VideoReader(path, in_order=every_frame) as reader:
        count = reader.num_frames
        if every_frame:
            for _ in _frames(reader):
                pass
        else:
            reader.get_frames(sorted({0, count // 2, count - 1}))
        return VideoFacts(count, reader.fps, *reader.size)


def _frames(reader: VideoReader) -> Iterator[np.ndarray]:
    """Yields all frames (H, W, 3) of a reader that was opened in order."""
    height, width = reader.size
    chunk = max(1, _CHUNK_BYTES // (height * width * 3))
    for start in range(0, reader.num_frames, chunk):
        yield from reader.get_frames(range(start, min(start + chunk, reader.num_frames)))


def reencode(source: str | Path, target: Path, encoding: Encoding = Encoding()) -> None:
    """Writes a video as H.264 in mp4, upright, without sound; ``target`` appears when it is whole.

    Frame i stays frame i. They follow each other at the average rate or, where the source's rate
    varies, at its times. Pixels become square. One source makes the same file each time.

    Raises:
        VideoError: the source cannot be decoded from its first to its last frame.
        OSError: the target cannot be written.
    """
    with (
        VideoReader(source, in_order=True, square_pixels=True) as reader,
        whole_file(target) as part,
    ):
        width, height = _even_size(*reader.size, encoding.short_side)
        seconds, tick = reader.timing.seconds, Fraction(1, 90_000)
        rate = Fraction(reader.fps).limit_denominator(10_000)
        options = {"preset": "fast", "crf": str(encoding.crf), "g": str(encoding.gop)}
        # Neither arithmetic coding nor a deblocking filter, which is hardly missed at this quality.
        options["tune"] = "fastdecode"
        # Three of four frames have nobody refer to them: the reader leaves out those that it does
        # not need. The macroblock tree, whose results depend on how threads run, is off, so that
        # one source always makes the same file.
        options["x264-params"] = "bframes=3:b-adapt=0:b-pyramid=none:no-mbtree=1"
        with av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options={**options, "threads": "1"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if seconds is not None:
                stream.codec_context.time_base = tick
            for number, pixels in enumerate(_frames(reader)):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
                if seconds is not None:
                    frame.pts, frame.time_base = round(seconds[number] / tick), tick
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def _even_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Returns (width, height): the short one is ``short_side``, the other rounded to even."""
    h, w = short_side_size(height, width, short_side)
    return w + w % 2, h + h % 2
