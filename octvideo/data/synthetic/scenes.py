"""Scenes of the synthetic action set: shapes in the cells of a grid over a drifting texture.

Eight actions in four pairs; each action is the time reversal of its twin. A scene is drawn from
its pair alone and rendered forward in time; the second action of the pair is the same rendering
played backward. Every phase (position, angle, scale, offset of the background) is uniform over its
period, and the background drifts in a uniformly random direction, so that any window of frames of
an action has, as a set, the distribution of its twin's: a model that is blind to the order of
frames knows the pair at best and stays at 50 %. Motion is continuous (shapes re-enter, turn, or
grow self-similarly), so that a second anywhere in a clip, and any crop of the short side, shows it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from octvideo.utils.errors import check_known

# Twins are neighbours: the reversal of action k is action k ^ 1.
ACTIONS = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "counterclockwise",
    "approach",
    "recede",
)

_SPRITE = 64  # side of a shape's image, in texels
TEXTURE = 256  # side of the periodic background image, in texels; two texels a pixel


@dataclass(frozen=True)
class _Scene:
    """A scene before time is added; lengths in pixels, R rows and K columns of cells, N = R * K."""

    cell: float  # side of a cell
    origin: np.ndarray  # (2,) offset of the grid, y then x
    centres: np.ndarray  # (N, 2) offset of a shape from the middle of its cell, y then x
    radii: np.ndarray  # (N,)
    grid: tuple[int, int]  # (R, K)
    sprites: np.ndarray  # (N * _SPRITE ** 2, 4) float32, colour 0..255 and opacity 0..1
    texture: np.ndarray  # (TEXTURE, TEXTURE, 3) float32, periodic
    drift: np.ndarray  # (2, 2): offset and velocity (a second) of the background, y then x


def background(rng: np.random.Generator) -> np.ndarray:
    """Draws band-limited periodic noise in two random tints, (TEXTURE, TEXTURE, 3) float32."""
    noise = np.fft.rfft2(rng.standard_normal((TEXTURE, TEXTURE)))
    frequency = np.hypot(
        np.fft.fftfreq(TEXTURE)[:, None], np.fft.rfftfreq(TEXTURE)[None, :]
    )  # cycles a texel
    period = rng.uniform(16, 40)
    pattern = np.fft.irfft2(noise * np.exp(-((frequency * period - 1) ** 2) * 4))
    pattern /= pattern.std()
    colour = rng.uniform(70, 185, 3)
    tint = rng.uniform(10, 30, 3) * rng.choice((-1, 1), 3)
    return np.clip(colour + pattern[..., None] * tint, 0, 255).astype(np.float32)


def _sprites(rng: np.random.Generator, pair: int, count: int) -> np.ndarray:
    """Images of `count` shapes of a pair, (count * _SPRITE ** 2, 4) float32.

    Things that travel are long, things that turn have lobes, things that zoom are round: the pair
    shows in a single frame, its direction does not.
    """
    axis = (np.arange(_SPRITE) + 0.5) * 2 / _SPRITE - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")

    def each(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1, 1))

    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    if pair == 2:
        lobes = rng.integers(2, 5, (count, 1, 1))
        outline = 0.66 + 0.26 * np.cos(lobes * angle)
    elif pair == 3:
        outline = np.full((count, 1, 1), 2.0)  # all of the sprite: it is cut at the radius
    else:
        flatness = each(0.45, 0.7)
        outline = 0.92 * flatness / np.hypot(flatness * np.cos(angle), np.sin(angle))
    opacity = np.clip((outline - distance) * _SPRITE / 4 + 0.5, 0, 1)

    phases, chequered = each(0, 2 * np.pi), each(0, 1) < 0.5
    if pair == 3:  # rings and sectors; the same at twice the size
        along = np.sin(2 * np.pi * np.log2(distance) + phases)
        across = np.sin(rng.integers(2, 5, (count, 1, 1)) * angle)
    else:
        direction, waves = each(0, 2 * np.pi), 2 * np.pi * each(0.8, 1.3)
        along = np.sin(waves * (x * np.cos(direction) + y * np.sin(direction)) + phases)
        across = np.sin(waves * (y * np.cos(direction) - x * np.sin(direction)))
    pattern = np.clip(np.where(chequered, along * across * 2, along) * 3, -1, 1) / 2 + 0.5
    dark, light = rng.uniform(0, 90, (count, 1, 1, 3)), rng.uniform(165, 255, (count, 1, 1, 3))
    swap = rng.random((count, 1, 1, 3)) < 0.5
    first, second = np.where(swap, light, dark), np.where(swap, dark, light)
    colour = first + (second - first) * pattern[..., None]
    return np.concatenate([colour, opacity[..., None]], -1).astype(np.float32).reshape(-1, 4)


def _draw_scene(rng: np.random.Generator, pair: int, height: int, width: int) -> _Scene:
    short = min(height, width)
    cell = short * rng.uniform(0.5, 0.65)
    # One row and column more than fit: a shape leaves the image wholly before it comes back.
    rows, columns = math.ceil(height / cell) + 1, math.ceil(width / cell) + 1
    count = rows * columns
    radii = cell * rng.uniform(0.38, 0.48, count)
    heading, speed = rng.uniform(0, 2 * np.pi), short * rng.uniform(0.05, 0.2)
    return _Scene(
        cell=cell,
        origin=rng.uniform(0, cell, 2),
        centres=rng.uniform(-1, 1, (count, 2)) * (cell / 2 - radii)[:, None],
        radii=radii,
        grid=(rows, columns),
        sprites=_sprites(rng, pair, count),
        texture=background(rng),
        drift=np.array(
            [
                rng.uniform(0, TEXTURE / 2, 2),
                [speed * math.sin(heading), speed * math.cos(heading)],
            ]
        ),
    )


@dataclass(frozen=True)
class _Motion:
    """What the shapes of a scene do at T moments; the forward action of each pair."""

    shift: np.ndarray  # (T, R) pixels by which a row of cells has moved to the left
    angle: np.ndarray  # (T, N) radians, clockwise on the screen
    scale: np.ndarray  # (T, N) pixels from the middle of a sprite to its side


def _draw_motion(
    rng: np.random.Generator, pair: int, scene: _Scene, short: int, seconds: np.ndarray
) -> _Motion:
    rows, columns = scene.grid
    count, time = rows * columns, seconds[:, None]
    shift = np.zeros((len(seconds), rows))
    angle = np.zeros((len(seconds), count))
    scale = np.broadcast_to(scene.radii, angle.shape)
    spread = rng.uniform(0.85, 1.15, count)  # shapes differ in speed by up to 15 %
    if pair < 2:
        speed = short * rng.uniform(0.3, 0.55) * spread[:rows]
        shift = rng.uniform(0, columns * scene.cell, rows) + speed * time
    elif pair == 2:
        turns = rng.uniform(0.3, 0.5) * spread
        angle = 2 * np.pi * (rng.random(count) + turns * time)
    else:
        # Self-similar images grow by a constant factor a second: after an octave they are as
        # they were, so that they grow without end.
        octaves = rng.random(count) + rng.uniform(1.2, 1.7) * spread * time
        scale = scene.radii * 2 ** (octaves % 1)
    return _Motion(shift, angle, scale)


def _render(
    scene: _Scene, motion: _Motion, seconds: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Looks every pixel up in the background and in the shape of its cell: (T, H, W, 3) uint8."""
    columns = scene.grid[1]
    y, x = scene.origin[0] + np.arange(height), scene.origin[1] + np.arange(width)
    row = (y // scene.cell).astype(np.int64)
    dy_cell = (y - (row + 0.5) * scene.cell)[:, None]
    offset_y, offset_x = scene.centres.T.astype(np.float32)
    radii = scene.radii.astype(np.float32)
    cosine = (np.cos(motion.angle) / motion.scale).astype(np.float32)
    sine = (np.sin(motion.angle) / motion.scale).astype(np.float32)
    frames = np.empty((len(seconds), height, width, 3), np.uint8)
    for k, moment in enumerate(seconds):
        moved = x + motion.shift[k][row][:, None]  # (H, W)
        column = np.floor(moved / scene.cell)
        cell = row[:, None] * columns + column.astype(np.int64) % columns
        dx = (moved - (column + 0.5) * scene.cell).astype(np.float32) - offset_x[cell]
        dy = dy_cell.astype(np.float32) - offset_y[cell]
        a, b = cosine[k][cell], sine[k][cell]
        texel_x = np.clip((a * dx + b * dy + 1) * (_SPRITE / 2), 0, _SPRITE - 1).astype(np.int64)
        texel_y = np.clip((a * dy - b * dx + 1) * (_SPRITE / 2), 0, _SPRITE - 1).astype(np.int64)
        shape = scene.sprites.take((cell * _SPRITE + texel_y) * _SPRITE + texel_x, axis=0)
        start = (scene.drift[0] + scene.drift[1] * moment) * 2
        bg_y = np.round(start[0] + 2 * np.arange(height)).astype(np.int64) % TEXTURE
        bg_x = np.round(start[1] + 2 * np.arange(width)).astype(np.int64) % TEXTURE
        image = scene.texture.take(bg_y, axis=0).take(bg_x, axis=1)
        # A shape ends at its radius, however large its sprite has grown.
        opacity = shape[..., 3] * np.clip(radii[cell] - np.hypot(dx, dy), 0, 1)
        image += opacity[..., None] * (shape[..., :3] - image)
        frames[k] = image + 0.5
    return frames


class Actions:
    """Draws the clips of the eight actions."""

    classes = ACTIONS
    crf = 18
    aspect_ratios = ((1, 1), (4, 3), (16, 9), (3, 4), (9, 16))

    def settings(self) -> dict[str, object]:
        """Returns what the pixels depend on besides seed and sizes: nothing."""
        return {}

    def render(
        self,
        seed: int | Sequence[int],
        name: str,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
    ) -> np.ndarray:
        """Returns the frames of a clip, (T, H, W, 3) uint8 RGB; see ``render_clip``."""
        return render_clip(seed, name, num_frames, height, width, fps)


def render_clip(
    seed: int | Sequence[int], action: str, num_frames: int, height: int, width: int, fps: float
) -> np.ndarray:
    """Frames of one action, (T, H, W, 3) uint8 RGB.

    The same seed gives an action and its twin the same frames in opposite order. Speeds are
    fractions of the shorter side, of a turn or of an octave a second, whatever the frame rate.
    ValueError for an unknown action or an empty clip.
    """
    check_known("action", action, ACTIONS)
    if min(num_frames, height, width) < 1 or fps <= 0:
        raise ValueError(
            f"a clip needs a positive length, size and rate, "
            f"got {num_frames} frames of {height}x{width} at {fps} fps"
        )
    pair, backward = divmod(ACTIONS.index(action), 2)
    vertical = pair == 1  # vertical motion is the horizontal one with the axes exchanged
    size = (width, height) if vertical else (height, width)
    rng = np.random.default_rng(seed)
    seconds = np.arange(num_frames) / fps
    scene = _draw_scene(rng, pair, *size)
    motion = _draw_motion(rng, pair, scene, min(size), seconds)
    frames = _render(scene, motion, seconds, *size)
    if vertical:
        frames = frames.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(frames[::-1] if backward else frames)
