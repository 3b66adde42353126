"""The record of how a network looks at a file: which frames, at what size, in which values."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from fvcore.common.config import CfgNode

from octvideo.config import clip_counts_of_test, short_side_of_test, takes_images
from octvideo.data.sampling import Clock, centre_start, clip_span, random_clip_start, view_start
from octvideo.data.transforms import normalize


@dataclass(frozen=True)
class CentreCrop:
    """The one view of an image: a square in the middle, resized with antialiasing by Pillow.

    The short side is resized to crop_size / ratio: 0.875 is the usual ratio (256 for 224).
    """

    crop_size: int = 224
    ratio: float = 0.875
    interpolation: str = "bilinear"  # or bicubic

    @property
    def short_side(self) -> int:
        # The small number: 224 / 0.7 is 320.00000000000006.
        return math.ceil(self.crop_size / self.ratio - 1e-6)


@dataclass(frozen=True)
class Protocol:
    """Says how a network looks at a file in a test; training takes its clips by the same rules.

    Frames: a clip has num_frames frames, sampling_rate frames apart at target_fps. A test takes
    num_clips clips, evenly spaced; with use_offset the last one ends near the end of the video
    (see `view_start`), and with centre there is one clip, in the middle. by_time: where the frame
    rate varies, take the frame that is shown at each point in time instead of counting frames.

    Pixels: the short side is resized to short_side (None: crop_size), and num_crops crops (1 or 3)
    of crop_size are cut out. antialias: Pillow resizes, with interpolation, as is usual for images;
    otherwise the resize is bilinear, without antialiasing. mean and std are for R, G, B in
    [0, 1]; reverse_channels gives B, G, R. square_pixels: see `VideoReader`.

    Scores: num_clips * num_crops views, joined by ensemble, "sum" (a mean) or "max"; precision of
    the network is "fp32", "bf16" or "fp16".

    Files: the decoding backend, and allow_partial to use the frames that decode of a damaged video.

    centre_crop: the one view of a still image, for networks that take images (see `of_images`).
    """

    num_frames: int
    sampling_rate: int
    crop_size: int = 256
    num_clips: int = 10
    num_crops: int = 3
    target_fps: float = 30.0
    use_offset: bool = False
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    reverse_channels: bool = False
    ensemble: str = "sum"
    backend: str = "pyav"
    precision: str = "fp32"
    centre_crop: CentreCrop | None = None
    short_side: int | None = None
    by_time: bool = True
    square_pixels: bool = False
    allow_partial: bool = False
    centre: bool = False
    antialias: bool = False
    interpolation: str = "bilinear"

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops

    def one_view(self) -> "Protocol":
        """Returns the protocol of a validation: the clip and the crop in the middle."""
        return replace(self, num_clips=1, num_crops=1, centre=True)

    def of_images(self) -> "Protocol":
        """Returns the protocol for still images: one frame, one view, the centre crop."""
        crop = self.centre_crop or CentreCrop(self.crop_size)
        return replace(
            self.one_view(),
            num_frames=1,
            crop_size=crop.crop_size,
            short_side=crop.short_side,
            antialias=True,
            interpolation=crop.interpolation,
        )

    def random_indices(
        self,
        length: int,
        fps: float,
        rng: np.random.Generator,
        seconds: np.ndarray | None = None,
        jitter_fps: float = 0.0,
    ) -> np.ndarray:
        """Returns the frames of a random training clip of a video: int64 (num_frames,).

        A video is its number of frames, its frames per second and, where that rate varies, the
        seconds at which each frame is shown (`Timing`). jitter_fps: uniform(0, jitter_fps) is
        added to target_fps.
        """
        if length == 1:  # there is nothing to draw
            return np.zeros(self.num_frames, np.int64)
        clock = Clock.of(length, fps, seconds if self.by_time else None)
        target_fps = self.target_fps + (rng.uniform(0.0, jitter_fps) if jitter_fps > 0 else 0.0)
        span = clip_span(self.num_frames, self.sampling_rate, clock.fps, target_fps)
        return clock.indices(random_clip_start(clock.length, span, rng), span, self.num_frames)

    def view_indices(
        self, length: int, fps: float, seconds: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the frames of the clips of a test: int64 (num_clips, num_frames)."""
        clock = Clock.of(length, fps, seconds if self.by_time else None)
        span = clip_span(self.num_frames, self.sampling_rate, clock.fps, self.target_fps)
        if self.centre:
            starts = [centre_start(clock.length, span)]
        else:
            starts = [
                view_start(clock.length, span, view, self.num_clips, self.use_offset)
                for view in range(self.num_clips)
            ]
        return np.stack([clock.indices(start, span, self.num_frames) for start in starts])

    def normalized(self, video: torch.Tensor) -> torch.Tensor:
        """Pixels (..., 3, T, H, W) of 0..255 -> float32, as the network takes them."""
        return normalize(video, self.mean, self.std, self.reverse_channels)


def build_protocol(cfg: CfgNode) -> Protocol:
    """Returns the protocol that a configuration describes."""
    data, side = cfg.DATA, short_side_of_test(cfg)
    centre_crop = None
    if takes_images(cfg):
        centre_crop = CentreCrop(
            data.TEST_CROP_SIZE, data.IN_VAL_CROP_RATIO, data.TEST_INTERPOLATION
        )
    return Protocol(
        num_frames=data.NUM_FRAMES,
        sampling_rate=data.SAMPLING_RATE,
        crop_size=data.TEST_CROP_SIZE,
        num_clips=clip_counts_of_test(cfg)[-1],
        num_crops=cfg.TEST.NUM_SPATIAL_CROPS,
        target_fps=data.TARGET_FPS,
        use_offset=data.USE_OFFSET_SAMPLING,
        mean=tuple(data.MEAN),
        std=tuple(data.STD),
        reverse_channels=data.REVERSE_INPUT_CHANNEL,
        ensemble=data.ENSEMBLE_METHOD,
        backend=data.DECODING_BACKEND,
        precision=cfg.TEST.PRECISION,
        centre_crop=centre_crop,
        short_side=None if side == data.TEST_CROP_SIZE else side,
        by_time=data.SAMPLE_BY_TIME,
        square_pixels=data.SQUARE_PIXELS,
        allow_partial=data.ALLOW_PARTIAL,
    )
