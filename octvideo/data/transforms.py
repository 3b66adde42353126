"""Pixels: uint8 frames (T, H, W, 3) in, videos (3, T, h, w) with values 0..255 out.

The result is that of resizing whole frames and then cropping (bilinear, align_corners False, no
antialias), but only the pixels of the crop are computed: in float32 (`resize_crop`), or, much
faster and a quarter of the bytes, as uint8 (`resize_crop_uint8`). Mean and deviation are taken off
by `normalize`, on the device of the model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

Box = tuple[int, int, int, int]  # top, left, height, width

PIXELS = ("uint8", "float32")
_CHUNK = 8  # frames resized at once: their float copy stays in the cache


@dataclass(frozen=True)
class TrainTransform:
    """Random crop and flip of a training clip; the settings of PySlowFast's DATA section.

    jitter_scales: range of the short side before the crop; inv_uniform: uniform in 1 / side.
    relative_scales (range of the area) and relative_aspects (range of width / height), both or
    none: a crop of random area and shape, resized to the crop size, takes the place of the jitter.
    flip: mirrored with probability 1/2. pixels: uint8, or float32 for values that are not rounded.
    """

    jitter_scales: tuple[int, int] = (256, 320)
    crop_size: int = 224
    flip: bool = True
    inv_uniform: bool = False
    relative_scales: tuple[float, ...] = ()
    relative_aspects: tuple[float, ...] = ()
    pixels: str = "uint8"

    def __post_init__(self) -> None:
        if self.pixels not in PIXELS:
            raise ValueError(f"DATA.TRAIN_PIXELS must be one of {PIXELS}, got {self.pixels!r}")
        if bool(self.relative_scales) != bool(self.relative_aspects):
            raise ValueError(
                "DATA.TRAIN_JITTER_SCALES_RELATIVE and DATA.TRAIN_JITTER_ASPECT_RELATIVE go "
                f"together: got {self.relative_scales} and {self.relative_aspects}"
            )
        low, high = self.jitter_scales
        if not self.relative_scales and not self.crop_size <= low <= high:
            raise ValueError(
                f"DATA.TRAIN_JITTER_SCALES must be a range [low, high] with low at least "
                f"DATA.TRAIN_CROP_SIZE ({self.crop_size}), got {list(self.jitter_scales)}"
            )


def short_side_size(height: int, width: int, short: int) -> tuple[int, int]:
    """Returns (h, w) after a resize of the short side to `short`; the long side is rounded down."""
    if min(height, width) == short:
        return height, width
    if width < height:
        return math.floor(height / width * short), short
    return short, math.floor(width / height * short)


def resize_crop(
    frames: np.ndarray, size: tuple[int, int], box: Box, flip: bool = False
) -> torch.Tensor:
    """Resizes frames to `size` = (h, w), cuts the box out there, and mirrors it.

    frames: uint8 (T, H, W, 3). Returns float32 (3, T, crop_h, crop_w), values 0..255: those of
    `F.interpolate` on whole frames up to float rounding, and exact where there is no resize.
    """
    _, height, width, _ = frames.shape
    top, left, crop_h, crop_w = box
    if size == (height, width):
        crop = frames[:, top : top + crop_h, left : left + crop_w]
        return _planes(crop[:, :, ::-1] if flip else crop)
    y = _source_positions(height, size[0], top, crop_h)
    x = _source_positions(width, size[1], left, crop_w)
    # Only the part of the source that the crop reads is converted to float.
    y0, y1, x0, x1 = int(y[0]), math.ceil(y[-1]) + 1, int(x[0]), math.ceil(x[-1]) + 1
    source = frames[:, y0:y1, x0:x1]
    grid = _sampling_grid(y - y0, (x - x0)[::-1] if flip else x - x0, y1 - y0, x1 - x0)
    if len(frames) <= _CHUNK:
        return _sampled(source, grid)
    video = torch.empty(3, len(frames), crop_h, crop_w)
    for t in range(0, len(frames), _CHUNK):
        video[:, t : t + _CHUNK] = _sampled(source[t : t + _CHUNK], grid)
    return video


def resize_crop_uint8(
    frames: np.ndarray, size: tuple[int, int], box: Box, flip: bool = False
) -> torch.Tensor:
    """Does `resize_crop` in whole numbers: uint8 (3, T, crop_h, crop_w), at most 1 off.

    Columns are rounded before rows are blended. Colours are the innermost in memory, as they
    were: the batch that copies the video puts it in order.
    """
    _, height, width, _ = frames.shape
    top, left, crop_h, crop_w = box
    if size == (height, width):
        part = frames[:, top : top + crop_h, left : left + crop_w]
        part = part[:, :, ::-1] if flip else part
        return torch.from_numpy(part.copy()).permute(3, 0, 1, 2)
    # torch counts positions from the corner: what comes before the crop is computed as well.
    rows, columns = top + crop_h, left + crop_w
    resized = torch.ops.aten.upsample_bilinear2d(
        torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2),
        # To as many pixels as there are it makes a copy, whatever the scale: one more then.
        [rows + (rows == height != size[0]), columns + (columns == width != size[1])],
        align_corners=False,
        scales_h=size[0] / height,
        scales_w=size[1] / width,
    )
    crop = resized[:, :, top : top + crop_h, left : left + crop_w]
    if flip:  # torch is quick at it if frames are whole and colours innermost
        crop = crop.contiguous(memory_format=torch.channels_last).flip(-1)
    return crop.transpose(0, 1)


def _source_positions(source: int, target: int, offset: int, count: int) -> np.ndarray:
    """Returns where output pixels offset..offset+count-1 of a resize lie in the source."""
    scale = float(np.float32(source) / np.float32(target))  # as precise as F.interpolate's own
    return np.clip((np.arange(offset, offset + count) + 0.5) * scale - 0.5, 0, source - 1)


def _sampling_grid(y: np.ndarray, x: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Returns the grid (1, h, w, 2) of F.grid_sample for pixel positions: (-1, 1) is the frame."""
    grid = np.empty((1, len(y), len(x), 2), np.float32)
    grid[..., 0] = (2 * x + 1) / width - 1
    grid[..., 1] = ((2 * y + 1) / height - 1)[:, None]
    return torch.from_numpy(grid)


def _sampled(frames: np.ndarray, grid: torch.Tensor) -> torch.Tensor:
    """Samples uint8 (T, H, W, 3) at a grid (1, h, w, 2): float32 (3, T, h, w)."""
    colours = torch.from_numpy(frames.astype(np.float32, order="C")).permute(3, 0, 1, 2)
    # The frames are channels of one image: the weights of a position are computed once a colour.
    return F.grid_sample(colours, grid.expand(3, -1, -1, -1), "bilinear", "border", False)


def _planes(frames: np.ndarray) -> torch.Tensor:
    """Turns uint8 (T, H, W, 3) into contiguous float32 (3, T, H, W)."""
    return torch.from_numpy(frames.transpose(3, 0, 1, 2).astype(np.float32, order="C"))


def random_crop_params(
    height: int, width: int, rng: np.random.Generator, spec: TrainTransform
) -> tuple[tuple[int, int], int, int]:
    """Draws the size (h, w) after a short-side jitter, and top and left of the crop there."""
    low, high = spec.jitter_scales
    side = 1 / rng.uniform(1 / high, 1 / low) if spec.inv_uniform else rng.uniform(low, high)
    h, w = short_side_size(height, width, round(side))
    top, left = rng.integers(h - spec.crop_size + 1), rng.integers(w - spec.crop_size + 1)
    return (h, w), int(top), int(left)


def random_region(
    height: int,
    width: int,
    rng: np.random.Generator,
    scales: Sequence[float],
    aspects: Sequence[float],
) -> Box:
    """Draws top, left, height, width of a part of the frame (Inception's crop, as PySlowFast).

    Its area is uniform in `scales` (of the frame's), its width / height log-uniform in `aspects`;
    after ten draws that do not fit, the largest centre part with an aspect in the range.
    """
    for _ in range(10):
        area = rng.uniform(scales[0], scales[1]) * height * width
        aspect = math.exp(rng.uniform(math.log(aspects[0]), math.log(aspects[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * max(aspects)))
    h = min(height, round(width / min(aspects)))
    return (height - h) // 2, (width - w) // 2, h, w


def training_view(
    frames: np.ndarray, rng: np.random.Generator, spec: TrainTransform
) -> torch.Tensor:
    """Turns uint8 (T, H, W, 3) into spec.pixels (3, T, s, s), 0..255, s = spec.crop_size."""
    _, height, width, _ = frames.shape
    s = spec.crop_size
    if spec.relative_scales:
        y, x, h, w = random_region(height, width, rng, spec.relative_scales, spec.relative_aspects)
        frames, size, top, left = frames[:, y : y + h, x : x + w], (s, s), 0, 0
    else:
        size, top, left = random_crop_params(height, width, rng, spec)
    flip = spec.flip and rng.random() < 0.5
    crop = resize_crop_uint8 if spec.pixels == "uint8" else resize_crop
    return crop(frames, size, (top, left, s, s), flip)


def normalize(
    video: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    reverse_channels: bool = False,
    axis: int = -4,
) -> torch.Tensor:
    """Returns (v / 255 - mean) / std of a video (..., 3, T, H, W), 0..255, as float32.

    axis: where the colours are, from the end; -3 for images (..., 3, H, W). mean and std are for
    R, G, B; ``reverse_channels`` gives B, G, R afterwards, as PySlowFast does.
    """
    shape = (-1,) + (1,) * (-1 - axis)
    mean_, std_ = (video.new_tensor(v, dtype=torch.float32).view(shape) for v in (mean, std))
    scale, shift = 1 / (255 * std_), -mean_ / std_
    # Two operations in place: each pass over the test's frames of a video takes tens of ms.
    video = video.to(torch.float32, copy=True).mul_(scale).add_(shift)
    return video.flip(axis) if reverse_channels else video
