"""When the frames of a video are shown, and its frame rate, from the time stamps of its packets."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

from octvideo.utils.console import printable

logger = logging.getLogger(__name__)

MAX_FPS = 250  # of cameras in ordinary use
_MAX_GAP = 10  # seconds, from which on FFmpeg takes a gap in a broadcast for a new clock


@dataclass(frozen=True)
class Timing:
    """The clock of a video.

    Attributes:
        fps: average frames per second.
        seconds: when each frame is shown, from the first one on, float64 (num_frames,). None where
            the file does not say or the rate is constant: frame i is shown at i / fps.
    """

    fps: float
    seconds: np.ndarray | None = None


def display_times(
    stamps: Iterable[tuple[int | None, int | None]], stream: VideoStream, container: InputContainer
) -> np.ndarray:
    """Returns the time stamps of frames in display order, int64; empty if they are not sound.

    stamps: (pts, dts) of the frames' packets in the order of the file. The clock of MPEG-TS may be
    set to another time on the way; the frames follow one another all the same.
    """
    pairs = list(stamps)
    # AVI stores no pts; FFmpeg guesses them from the next frame.
    has_pts = container.format.name != "avi" and all(pts is not None for pts, _ in pairs)
    has_dts = all(dts is not None for _, dts in pairs)
    if len(pairs) < 2 or not (has_pts or has_dts):
        return np.empty(0, np.int64)
    shown = np.array([pts if has_pts else dts for pts, dts in pairs], np.int64)
    decoded = np.array([dts if has_dts else pts for pts, dts in pairs], np.int64)
    many_clocks = bool(Flags(container.format.flags) & Flags.ts_discont)
    limit = _MAX_GAP / _tick(stream) if many_clocks else np.inf
    if many_clocks:
        steps = np.diff(decoded)
        cuts = np.flatnonzero((steps < 0) | (steps > limit)) + 1 if has_dts else np.empty(0, int)
        shown = np.concatenate([np.sort(part) for part in np.split(shown, cuts)])
    else:
        shown = np.sort(shown)
    steps = np.diff(shown)
    jumps = (steps <= 0) | (steps > limit)
    if jumps.any():  # sound if they are few, and between clocks
        if not many_clocks or jumps.sum() * 10 > len(steps):
            return np.empty(0, np.int64)
        steps[jumps] = np.median(steps[~jumps])
    return np.concatenate([[0], np.cumsum(steps)])


def timing(path: str, stream: VideoStream, times: np.ndarray, count: int) -> Timing | None:
    """Returns the clock of a video of `count` frames with these time stamps (empty: none).

    The rate is the container's where the time stamps agree with it. None if there is no rate at
    all.
    """
    declared = [r for r in (stream.average_rate, stream.guessed_rate) if r]
    if len(times) < 2:
        # A raw stream has the rate of its demuxer as the average, its own as the guess.
        rates = declared if stream.duration else declared[::-1]
        return _reported(path, Timing(float(rates[0])), count) if rates else None
    tick = _tick(stream)
    seconds, steps = (times - times[0]) * tick, len(times) - 1
    fps = steps / float(seconds[-1])
    for rate in declared:
        if _agrees(float(1 / rate), seconds, tick):
            fps = float(rate)
            break
    # Constant: an even clock on which no frame is off by more than half the distance of two.
    off = np.ptp(seconds - np.linspace(0, seconds[-1], steps + 1))
    constant = off <= 1 / fps + _rounding(1 / fps, tick)
    return _reported(path, Timing(fps, None if constant else seconds), count)


def _tick(stream: VideoStream) -> float:
    """Returns the seconds of a unit of the time stamps."""
    assert stream.time_base is not None  # every demuxer of FFmpeg sets it
    return float(stream.time_base)


def _agrees(step: float, seconds: np.ndarray, tick: float) -> bool:
    """Tests whether frames `step` seconds apart could have these times, but for a missing one."""
    steps, rounding = len(seconds) - 1, _rounding(step, tick)
    off = abs(steps * step - seconds[-1])
    if off <= rounding + 0.0005 * seconds[-1]:
        return True
    one_missing = step / 2 <= off <= step + rounding
    return bool(one_missing and abs(float(np.median(np.diff(seconds))) - step) <= rounding / 2)


def _rounding(step: float, tick: float) -> float:
    """Returns by how many seconds the distance of two time stamps may be rounded."""
    return min(2 * tick, step / 4)


def _reported(path: str, found: Timing, count: int) -> Timing:
    if found.fps > MAX_FPS and count > 1:
        _warn(path, found.fps)
    return found


@lru_cache(maxsize=1024)
def _warn(path: str, fps: float) -> None:
    logger.warning(
        "%s: %.6g frames per second. If it was filmed at a lower rate, its clips are too short in "
        "time: correct its time stamps, or remove it from the list",
        printable(path),
        fps,
    )
