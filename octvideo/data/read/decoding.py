"""The frames of a stream in the order in which they are shown, from the start of a file."""

from bisect import bisect_left
from collections.abc import Callable, Iterator

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


def decode_all(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yields all frames; whatever FFmpeg raises ends them."""
    for packet in container.demux(stream):
        if packet.size:
            yield from stream.codec_context.decode(packet)
    yield from stream.codec_context.decode(None)


def filled(
    frames: Iterator[VideoFrame], shown: list[int], report: Callable[[int, int], None]
) -> Iterator[VideoFrame]:
    """Yields `frames`, and for each missing one the one before it again.

    Args:
        shown: the timestamps of all frames that there should be, [] where they say nothing.
        report: called with how many of them are there so far, and how many there should be, at each
            gap and where the last ones are missing. What it raises ends the frames.
    """
    number, missing = 0, 0
    last: VideoFrame | None = None
    for frame in frames:
        place = bisect_left(shown, frame.pts) if frame.pts is not None else number
        if number < place < len(shown) and shown[place] == frame.pts:
            missing += place - number
            report(len(shown) - missing, len(shown))
            yield from [last or frame] * (place - number)
            number = place
        yield frame
        last, number = frame, number + 1
    if number < len(shown):
        report(number - missing, len(shown))


def decode_sound(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yields the frames of a damaged file without those that are damaged, or may refer to such.

    After damage, those are all up to the next keyframe.
    """
    lost, damaged = False, set()
    for packet in _readable(container, stream):
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:
            lost = True
            if packet is not None and packet.pts is not None:
                damaged.add(packet.pts)  # some decoders give its frame all the same
            continue
        for frame in frames:
            lost = frame.is_corrupt or frame.pts in damaged or (lost and not frame.key_frame)
            if not lost:
                yield frame


def _readable(container: InputContainer, stream: VideoStream) -> Iterator[Packet | None]:
    """Yields the packets up to the end, or to where the file cannot be read, and then None."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.FFmpegError:
        pass
    yield None
