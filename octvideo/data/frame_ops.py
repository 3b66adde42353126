"""Operations on the frames of a clip: uint8 (T, H, W, 3) RGB in, the same out.

They are Pillow's, which RandAugment is built from, for a whole clip at once and without
Pillow. What Pillow takes from an image (its histogram, its mean) is taken from each frame.
Colours are equal to Pillow's to the last bit; geometry is rounded where Pillow truncates.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

FILL = 128  # what comes into view from outside the frame
INTERPOLATIONS = ("bilinear", "bicubic")  # torch's bicubic; Pillow's is a little sharper
_CHUNK = 8  # frames moved at once
_LEVELS = np.arange(256)


# ------------------------------------------------------------------------- tables of 256 values


def invert(frames: np.ndarray) -> np.ndarray:
    """Returns 255 - v."""
    return 255 - frames


def posterize(frames: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the `bits` highest bits of each value: 8 all, 0 none."""
    return frames & np.uint8(256 - (1 << (8 - bits)))


def solarize(frames: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the values from `threshold` on."""
    return _table(np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS))[frames]


def solarize_add(frames: np.ndarray, add: int) -> np.ndarray:
    """Adds to the values below 128."""
    return _table(np.where(_LEVELS < 128, _LEVELS + add, _LEVELS))[frames]


def brightness(frames: np.ndarray, factor: float) -> np.ndarray:
    """Scales values away from black: 0 is black, 1 changes nothing."""
    return _blend(np.zeros(256), _LEVELS, factor)[frames]


def contrast(frames: np.ndarray, factor: float) -> np.ndarray:
    """Scales values away from each frame's mean grey: 0 is that grey, 1 changes nothing."""
    out = np.empty_like(frames)
    for t, frame in enumerate(frames):
        mean = int(_grey(frame).mean() + 0.5)
        out[t] = _blend(np.full(256, mean), _LEVELS, factor)[frame]
    return out


def auto_contrast(frames: np.ndarray) -> np.ndarray:
    """Stretches every channel of every frame to 0..255."""

    def stretch(histogram: np.ndarray) -> np.ndarray:
        present = np.flatnonzero(histogram)
        low, high = present[0], present[-1]
        if low == high:
            return _LEVELS
        scale = 255.0 / (high - low)
        return _LEVELS * scale - low * scale

    return _by_histogram(frames, stretch)


def equalize(frames: np.ndarray) -> np.ndarray:
    """Makes the values of every channel of every frame about equally frequent."""

    def flatten(histogram: np.ndarray) -> np.ndarray:
        present = np.flatnonzero(histogram)
        step = (histogram.sum() - histogram[present[-1]]) // 255
        if len(present) == 1 or step == 0:
            return _LEVELS
        return (np.cumsum(histogram) - histogram + step // 2) // step

    return _by_histogram(frames, flatten)


def _table(values: np.ndarray) -> np.ndarray:
    """Makes 256 numbers uint8: cut to 0..255, fractions dropped."""
    return np.clip(values, 0, 255).astype(np.uint8)


def _by_histogram(frames: np.ndarray, rule: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Maps each channel of each frame by the table `rule` makes of its histogram (256,)."""
    out = np.empty_like(frames)
    for t, frame in enumerate(frames):
        for c in range(3):
            channel = frame[..., c]
            histogram = np.bincount(channel.ravel(), minlength=256)
            out[t, ..., c] = _table(rule(histogram))[channel]
    return out


# ------------------------------------------------------------------------------ colour, sharpness


def color(frames: np.ndarray, factor: float) -> np.ndarray:
    """Scales values away from grey: 0 is grey, 1 changes nothing."""
    return _blend(_grey(frames)[..., None], frames, factor)


def sharpness(frames: np.ndarray, factor: float) -> np.ndarray:
    """Scales values away from a 3x3 blur: 0 is blurred, 1 changes nothing. The border stays."""
    _, h, w, _ = frames.shape
    blurred = frames.copy()
    if h > 2 and w > 2:
        sums = 4 * frames[:, 1:-1, 1:-1].astype(np.int16)
        for y in range(3):
            for x in range(3):
                sums += frames[:, y : h - 2 + y, x : w - 2 + x]
        blurred[:, 1:-1, 1:-1] = (2 * sums + 13) // 26  # sums / 13, rounded
    return _blend(blurred, frames, factor)


def _grey(frames: np.ndarray) -> np.ndarray:
    """Turns (..., 3) into ITU-R 601 luma (...), with Pillow's weights of 65536."""
    r, g, b = (frames[..., c].astype(np.int32) for c in range(3))
    return ((r * 19595 + g * 38470 + b * 7471 + 32768) >> 16).astype(np.uint8)


def _blend(start: np.ndarray, end: np.ndarray, factor: float) -> np.ndarray:
    """Returns start + factor * (end - start) as uint8, also beyond the two; drops fractions."""
    base = start.astype(np.float32)
    return _table(base + np.float32(factor) * (end.astype(np.float32) - base))


# --------------------------------------------------------------------------------------- geometry

Matrix = tuple[float, float, float, float, float, float]


def affine(frames: np.ndarray, matrix: Matrix, interpolation: str = "bilinear") -> np.ndarray:
    """Moves pixels: the point (x, y) of the result shows (ax + by + c, dx + ey + f) of the frame.

    matrix: a, b, c, d, e, f, in pixels; a pixel's centre is at its index + 0.5. interpolation:
    one of INTERPOLATIONS. Points outside the frame are FILL.
    """
    _, h, w, _ = frames.shape
    a, b, c, d, e, f = matrix
    y, x = np.mgrid[0:h, 0:w] + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    outside = (source_x < 0) | (source_x >= w) | (source_y < 0) | (source_y >= h)
    grid = np.stack([2 * source_x / w - 1, 2 * source_y / h - 1], -1)[None].astype(np.float32)
    parts = [
        _sample(frames[t : t + _CHUNK], torch.from_numpy(grid), interpolation)
        for t in range(0, len(frames), _CHUNK)
    ]
    moved = np.concatenate(parts)
    moved[:, outside] = FILL
    return moved


def shear_x(frames: np.ndarray, factor: float, interpolation: str) -> np.ndarray:
    """Rows move sideways, by `factor` pixels more a row."""
    return affine(frames, (1, factor, 0, 0, 1, 0), interpolation)


def shear_y(frames: np.ndarray, factor: float, interpolation: str) -> np.ndarray:
    """Columns move up or down, by `factor` pixels more a column."""
    return affine(frames, (1, 0, 0, factor, 1, 0), interpolation)


def translate_x(frames: np.ndarray, share: float, interpolation: str) -> np.ndarray:
    """Moves frames to the left by a share of the width."""
    return affine(frames, (1, 0, share * frames.shape[2], 0, 1, 0), interpolation)


def translate_y(frames: np.ndarray, share: float, interpolation: str) -> np.ndarray:
    """Moves frames up by a share of the height."""
    return affine(frames, (1, 0, 0, 0, 1, share * frames.shape[1]), interpolation)


def rotate(frames: np.ndarray, degrees: float, interpolation: str) -> np.ndarray:
    """Turns frames counter-clockwise about the centre."""
    x, y = frames.shape[2] / 2, frames.shape[1] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    return affine(frames, matrix, interpolation)


def _sample(frames: np.ndarray, grid: torch.Tensor, interpolation: str) -> np.ndarray:
    """Samples uint8 (T, H, W, 3) at a grid (1, H, W, 2) of F.grid_sample: uint8 (T, H, W, 3)."""
    t, h, w, c = frames.shape
    planes = frames.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    # All planes are channels of one image: the weights of a position are computed once.
    video = torch.from_numpy(planes).view(1, t * c, h, w)
    out = F.grid_sample(video, grid, interpolation, "border", align_corners=False)
    out = out.clamp_(0, 255).round_().to(torch.uint8).view(t, c, h, w)
    return out.permute(0, 2, 3, 1).contiguous().numpy()
