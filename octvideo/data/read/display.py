"""How a decoded frame is meant to be shown: turned, mirrored, with oblong pixels."""

from fractions import Fraction

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

Matrix = tuple[int, int, int, int]


def display_matrix(frame: VideoFrame) -> Matrix:
    """Returns (a, b, c, d) of the display matrix: pixel (x, y) is shown at (ax + cy, bx + dy)."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32, 5).tolist()  # 3x3; u, v, w do not matter
    return a, b, c, d


def upright(frames: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Turns decoded frames (..., H, W, 3) as they are shown: quarter turns and mirrorings.

    An oblique rotation becomes the nearest quarter turn. The result may be a view.
    """
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        frames = frames.swapaxes(-3, -2)
        flip_x, flip_y = c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return frames[..., :: -1 if flip_y else 1, :: -1 if flip_x else 1, :]


def square_size(width: int, height: int, pixel_ratio: Fraction | None) -> tuple[int, int]:
    """Returns (width, height) for square pixels; the shorter side of a pixel grows.

    pixel_ratio: width of a pixel by its height, as it is stored; None or 0 if that is not known.
    """
    if not pixel_ratio or pixel_ratio < 0:
        return width, height
    if pixel_ratio > 1:
        return round(width * pixel_ratio), height
    return width, round(height / pixel_ratio)
