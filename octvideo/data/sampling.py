"""Which frames and which crops: index arithmetic without pixels.

The protocol is PySlowFast's, so that numbers can be compared. Times are counted in frames of the
source video; a start may lie between two frames, and only `frame_indices` makes integers.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

_ROUNDING = 0.02  # frames


@dataclass(frozen=True)
class Clock:
    """The frames of a video on an even clock.

    length: of the video, in ticks of the clock, `fps` a second. places: float64, when each frame is
    shown; None: one a tick. A video of a varying rate has a clock as fast as its fastest frames.
    """

    length: float
    fps: float
    places: np.ndarray | None = None

    @classmethod
    def of(cls, length: int, fps: float, seconds: np.ndarray | None = None) -> "Clock":
        """Returns the clock of a video; seconds: when each frame is shown, if the rate varies."""
        if seconds is None:
            return cls(length, fps)
        fps = 1 / float(np.quantile(np.diff(seconds), 0.1))
        return cls(float(seconds[-1]) * fps + 1, fps, seconds * fps)

    def indices(self, start: float, span: float, num_frames: int) -> np.ndarray:
        if self.places is None:
            return frame_indices(start, span, num_frames, self.length)
        points = clip_points(start, span, num_frames, self.length).numpy()
        # A little later, as time stamps are rounded, often to milliseconds.
        return np.searchsorted(self.places, points + _ROUNDING, side="right") - 1


def clip_span(num_frames: int, sampling_rate: int, fps: float, target_fps: float) -> float:
    """Frames of the source that num_frames * sampling_rate frames at target_fps last; at least 1.

    A shorter one, of a video of a very low frame rate, would run backwards in `frame_indices`.
    """
    return max(1.0, sampling_rate * num_frames / target_fps * fps)


def random_clip_start(length: float, span: float, rng: np.random.Generator) -> float:
    """Returns the start of a random clip, uniform in [0, length - span]; 0 in a shorter video."""
    return float(rng.uniform(0.0, max(length - span, 0.0)))


def centre_start(length: float, span: float) -> float:
    """Returns the start of the clip in the middle of the video."""
    return max(length - span, 0.0) / 2


def view_start(
    length: float, span: float, view: int, num_views: int, use_offset: bool = False
) -> float:
    """Returns the start of test view `view` of `num_views`.

    (length - span) * view / num_views. With use_offset the distance of two views is
    (length - span) / (num_views - 1) in whole frames, rounded down, so that the last view ends
    less than num_views frames before the end of the video; a single view is the centre one.
    """
    room = max(length - span, 0.0)
    if not use_offset:
        return room * view / num_views
    return float(math.floor(room / (num_views - 1)) * view if num_views > 1 else room // 2)


def frame_indices(start: float, span: float, num_frames: int, length: float) -> np.ndarray:
    """Truncates the points of a clip to int64 (num_frames,)."""
    return clip_points(start, span, num_frames, length).long().numpy()


def clip_points(start: float, span: float, num_frames: int, length: float) -> torch.Tensor:
    """Returns linspace(start, start + span - 1), float32 (num_frames,).

    A video that ends before the clip does repeats its last frame.
    """
    # torch's float32 linspace, as in PySlowFast: another rounding would move some frames by one.
    return torch.linspace(start, start + span - 1, num_frames).clamp(0, length - 1)


def crop_offsets(height: int, width: int, crop: int, num_crops: int) -> list[tuple[int, int]]:
    """Returns (top, left) of the test crops: 3 along the long side, or 1 in the centre.

    Raises ValueError for another number of crops, or a crop larger than the frame.
    """
    if num_crops not in (1, 3):
        raise ValueError(f"TEST.NUM_SPATIAL_CROPS must be 1 or 3, got {num_crops}")
    if crop > min(height, width):
        raise ValueError(f"a crop of {crop} does not fit into a frame of {height}x{width}")
    top, left = math.ceil((height - crop) / 2), math.ceil((width - crop) / 2)
    if num_crops == 1:
        return [(top, left)]
    if height > width:
        return [(0, left), (top, left), (height - crop, left)]
    return [(top, 0), (top, left), (top, width - crop)]
