"""Which frames and which crops: index arithmetic without pixels.

The protocol is PySlowFast's, so that numbers can be compared. Times are counted in frames of the
source video; a start may lie between two frames, and only `frame_indices` makes integers.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class ClipSampling:
    """How a clip is taken from a video.

    num_frames: frames of the clip; sampling_rate: distance of two of them, in frames at
    target_fps; jitter_fps: training adds uniform(0, jitter_fps) to target_fps; use_offset: test
    views reach the end of the video, nearly (see `view_start`).
    """

    num_frames: int
    sampling_rate: int
    target_fps: float = 30.0
    jitter_fps: float = 0.0
    use_offset: bool = False

    def span(self, fps: float) -> float:
        """Length of the clip in frames of a video of `fps` frames per second."""
        return clip_span(self.num_frames, self.sampling_rate, fps, self.target_fps)

    def random_indices(self, length: int, fps: float, rng: np.random.Generator) -> np.ndarray:
        """A random training clip of a video: int64 (num_frames,)."""
        target_fps = self.target_fps
        if self.jitter_fps > 0:
            target_fps += rng.uniform(0.0, self.jitter_fps)
        span = clip_span(self.num_frames, self.sampling_rate, fps, target_fps)
        return frame_indices(random_clip_start(length, span, rng), span, self.num_frames, length)

    def centre_indices(self, length: int, fps: float) -> np.ndarray:
        """The clip in the middle of a video: int64 (num_frames,)."""
        span = self.span(fps)
        return frame_indices(centre_start(length, span), span, self.num_frames, length)

    def view_indices(self, length: int, fps: float, num_views: int) -> np.ndarray:
        """The clips of a test: int64 (num_views, num_frames)."""
        span = self.span(fps)
        starts = [view_start(length, span, v, num_views, self.use_offset) for v in range(num_views)]
        return np.stack([frame_indices(s, span, self.num_frames, length) for s in starts])


def clip_span(num_frames: int, sampling_rate: int, fps: float, target_fps: float) -> float:
    """Frames of the source that num_frames * sampling_rate frames at target_fps last; at least 1.

    A shorter one, of a video of a very low frame rate, would run backwards in `frame_indices`.
    """
    return max(1.0, sampling_rate * num_frames / target_fps * fps)


def random_clip_start(length: int, span: float, rng: np.random.Generator) -> float:
    """Start of a random clip, uniform in [0, length - span]; 0 in a video shorter than the clip."""
    return float(rng.uniform(0.0, max(length - span, 0.0)))


def centre_start(length: int, span: float) -> float:
    """Start of the clip in the middle of the video."""
    return max(length - span, 0.0) / 2


def view_start(
    length: int, span: float, view: int, num_views: int, use_offset: bool = False
) -> float:
    """Start of test view `view` of `num_views`.

    (length - span) * view / num_views. With use_offset the distance of two views is
    (length - span) / (num_views - 1) in whole frames, rounded down, so that the last view ends
    less than num_views frames before the end of the video; a single view is the centre one.
    """
    room = max(length - span, 0.0)
    if not use_offset:
        return room * view / num_views
    return float(math.floor(room / (num_views - 1)) * view if num_views > 1 else room // 2)


def frame_indices(start: float, span: float, num_frames: int, length: int) -> np.ndarray:
    """Frames linspace(start, start + span - 1), truncated to int64 (num_frames,).

    A video that ends before the clip does repeats its last frame.
    """
    # torch's float32 linspace, as in PySlowFast: another rounding would move some frames by one.
    points = torch.linspace(start, start + span - 1, num_frames)
    return points.clamp(0, length - 1).long().numpy()


def slow_indices(num_frames: int, frame_ratio: int) -> np.ndarray:
    """Frames of SlowFast's slow pathway among the fast ones: int64 (num_frames // frame_ratio,)."""
    return torch.linspace(0, num_frames - 1, num_frames // frame_ratio).long().numpy()


def crop_offsets(height: int, width: int, crop: int, num_crops: int) -> list[tuple[int, int]]:
    """(top, left) of the test crops of a frame: 3 along its long side, or 1 in the centre.

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
