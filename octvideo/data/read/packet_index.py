"""What a video file says of its frames before any is decoded: opening, index, decoding plan."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from octvideo.data.read.ffmpeg_errors import ffmpeg_errors
from octvideo.data.read.timing import Timing, display_times, timing
from octvideo.utils.console import printable

# Containers whose own index makes a seek land where it should.
SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}

# FFmpeg's names of the formats that are read. Each of them is one self-contained file; playlists
# (concat, hls, dash), numbered images and devices would open other files or the network.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,live_flv,kux,asf,asf_o,ogg,rm,mxf,gxf,nut,wtv,dv,nsv,"
    "ivf,obu,h264,hevc,vvc,h263,h261,m4v,mpegvideo,vc1,mjpeg,dirac,yuv4mpegpipe,gif,apng,"
    "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe"
)


class VideoError(Exception):
    """A video file cannot be read. `path` is the file, `reason` what is wrong with it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that it survives pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turns what FFmpeg or the system raises into a `VideoError` that names the file."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, getattr(error, "strerror", None) or str(error)) from error
    except MemoryError as error:
        raise VideoError(path, "needs more memory than there is") from error


def open_video(path: str, max_pixels: int) -> tuple[InputContainer, VideoStream]:
    """Opens a file and its first video stream that is no cover image, with one decoding thread."""
    container = open_container(path)
    try:
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                break
        else:
            raise VideoError(path, "has no video stream")
        context = stream.codec_context
        if context is None:
            raise VideoError(path, "is coded in a way that this FFmpeg does not know")
        check_pixels(path, context.width, context.height, max_pixels)
        context.thread_count = 1  # the loader's workers are the parallelism
        context.options = {"max_pixels": str(max_pixels), **_strictness(context.name)}
    except BaseException:
        container.close()
        raise
    return container, stream


def _strictness(codec: str) -> dict[str, str]:
    """Options that make a decoder fail where it notices damage.

    H.264 frames carry a mark of it instead, and a stream of them may begin with frames that refer
    to some that were cut off, which is no damage to those that follow.
    """
    return {} if codec == "h264" else {"err_detect": "crccheck+bitstream+buffer+explode"}


def open_container(path: str) -> InputContainer:
    """Opens a file in one of FORMATS, which FFmpeg finds by content and not by name."""
    with descriptor(path) as number:
        # FFmpeg gets an open file and the one protocol that reads it, so no content can make it
        # open a path or an address. It duplicates the descriptor.
        options = {
            "fd": str(number),
            "protocol_whitelist": "fd",
            "format_whitelist": FORMATS,
        }
        try:
            return av.open("fd:", options=options, metadata_errors="ignore")
        except (av.ArgumentError, av.InvalidDataError) as error:  # one or the other, by content
            reason = "is in no video format that is read, or its header is damaged or missing"
            if os.fstat(number).st_size == 0:
                reason = "the file is empty"
            raise VideoError(path, reason) from error


@contextmanager
def descriptor(path: str) -> Iterator[int]:
    """Gives the number of the open file, for as long as the context lasts."""
    if not os.path.isfile(path):  # a pipe would block
        raise VideoError(path, "is not a file" if os.path.exists(path) else "no such file")
    with open(path, "rb", buffering=0) as file:
        yield file.fileno()


def check_pixels(path: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise VideoError(
            path, f"frames of {width}x{height} pixels, more than max_pixels={max_pixels}"
        )


def frame_timing(path: str, stream: VideoStream, times: np.ndarray, count: int) -> Timing:
    """Returns the clock of a video of `count` frames, from the `times` of its index."""
    found = timing(path, stream, times, count)
    if found is None:
        raise VideoError(path, "has no frame rate")
    return found


@dataclass(frozen=True)
class Index:
    """What the packets of a stream say about its frames, without decoding.

    Attributes:
        count: number of packets whose frames are shown.
        shown: timestamps of the frames that are shown, ascending.
        place: timestamp -> position of its packet in decoding order.
        keys: (timestamp, position) of the keyframes, ascending in both.
        announced: how many frames the container's own index promises, 0 if it has none.
        exact: the timestamps identify the frames, and a keyframe comes before each of them.
        seekable: `exact`, and the container's seeks can be trusted.
        times: when the frames are shown, ascending (`display_times`); empty if that is not known.
    """

    count: int
    shown: list[int]
    place: dict[int, int]
    keys: list[tuple[int, int]]
    announced: int
    exact: bool
    seekable: bool
    times: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def open_indexed(
    path: str, max_pixels: int, allow_damage: bool = False
) -> tuple[InputContainer, VideoStream, Index]:
    """Opens a video (`open_video`) and builds its index.

    Raises:
        VideoError: the container is damaged. FFmpeg would pass over it, and frames would be lost.
            (Unless allow_damage.)
    """
    with ffmpeg_errors() as errors:
        container, stream = open_video(path, max_pixels)
        try:
            index = build_index(container, stream)
            for _, component, message in errors:
                if component == container.format.name and not allow_damage:
                    raise VideoError(path, f"the container is damaged: {message.strip()}")
        except BaseException:
            container.close()
            raise
    return container, stream, index


def build_index(container: InputContainer, stream: VideoStream) -> Index:
    """Reads through all packets (the file's position is at its end afterwards)."""
    announced = _announced_by_header(container, stream)
    demuxed = (p for p in container.demux(stream) if p.size)
    packets = [(p.pts, p.is_keyframe, p.is_discard, p.dts) for p in demuxed]
    # Discarded packets, outside the edit list, are decoded because others refer to them.
    stamps = [(pts, dts) for pts, _, discard, dts in packets if not discard]
    count = len(stamps)
    place = {
        pts: n for n, (pts, _, discard, _) in enumerate(packets) if pts is not None and not discard
    }
    keys = [(pts, n) for n, (pts, key, _, _) in enumerate(packets) if key and pts is not None]
    shown = sorted(place)
    exact = (
        0 < count == len(shown)
        and bool(keys)
        and keys == sorted(keys)
        and keys[0][1] == 0
        and keys[0][0] <= shown[0]
    )
    return Index(
        count=count,
        shown=shown,
        place=place,
        keys=keys,
        announced=(announced or _announced(container, stream)) - (len(packets) - count),
        exact=exact,
        seekable=exact and container.format.name in SEEKABLE,
        times=display_times(stamps, stream, container),
    )


def _announced(container: InputContainer, stream: VideoStream) -> int:
    """Entries of the container's own index. Elsewhere FFmpeg makes one, of headers too (FLV)."""
    has_index = container.format.name in {*SEEKABLE, "avi"}
    return len(stream.index_entries) if has_index else 0


def _announced_by_header(container: InputContainer, stream: VideoStream) -> int:
    """Frames by the header of an AVI whose index is not there: it is at the end of the file.

    0 for all others, and for a header that a recorder left unfinished. Before packets are read.
    """
    entries = stream.index_entries
    # Empty frames, which mark a gap, are counted by the header but are not in the index.
    has_index = len(entries) > 0 and 2 * entries[len(entries) - 1].timestamp > stream.frames
    if container.format.name != "avi" or has_index or stream.frames >= 2**31 - 1:
        return 0
    return stream.frames


@dataclass
class Run:
    """A stretch decoded without a seek: from the packet `start` up to the packet `stop`."""

    start: int  # timestamp of the keyframe
    stop: int  # timestamp of the packet after which all of `wanted` can be drained
    wanted: list[int] = field(default_factory=list)


def plan_runs(index: Index, wanted: Iterable[int]) -> list[Run]:
    """Groups ascending timestamps into runs, with a seek wherever it saves decoding a packet."""
    runs: list[Run] = []
    for pts in wanted:
        place = index.place[pts]
        k = bisect_right(index.keys, (pts, place)) - 1
        while index.keys[k][1] > place:  # shown after this keyframe, but decoded before it
            k -= 1
        key_pts, key_place = index.keys[k]
        if not runs or key_place > index.place[runs[-1].stop] + 1:
            runs.append(Run(start=key_pts, stop=pts))
        run = runs[-1]
        run.wanted.append(pts)
        run.stop = max(run.stop, pts, key=index.place.__getitem__)
    return runs


def can_skip(stream: VideoStream) -> bool:
    """Tests whether frames that FFmpeg calls non-reference are referred to by no other.

    HEVC's non-reference frames may serve higher temporal layers (ITU-T H.265, 7.4.2.2), so the
    layers are counted, in the configuration record of ISO/IEC 14496-15, 8.3.3.1.
    """
    context = stream.codec_context
    if context.name == "hevc":
        record = context.extradata or b""
        return len(record) > 22 and record[0] == 1 and record[21] >> 3 & 7 == 1
    return context.name == "h264" and context.has_b_frames
