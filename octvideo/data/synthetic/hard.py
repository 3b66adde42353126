"""Scenes that need fine detail and motion over a wide field at once, with a dial for each.

A clip shows discs with fine textures on a drifting ground. One of them, the target, travels; the
others, the distractors, tremble in place. All of them and the ground pass as the camera moves. The
class is the texture of the target and its path: no single frame shows which disc travels, and no
motion alone shows the texture. The textures differ by the direction of their waves only: they have
the same mean and contrast. Half the resolution weakens the finest; with detail=2, it takes most.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from octvideo.data.synthetic.scenes import TEXTURE, background
from octvideo.utils.errors import check_known

TEXTURES = ("horizontal", "vertical", "rising", "falling", "chequered", "rings")
PATHS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (y, x); y points down
RANGES = {
    "detail": (2, 32), "contrast": (0, 1), "distractors": (0, 20), "camera": (0, 1),
    "noise": (0, 100), "blur": (0, 8), "crf": (0, 51),
}  # fmt: skip


@dataclass(frozen=True)
class HardScenes:
    """Draws the clips of the hard set. A pixel below is a 64th of the shorter side.

    detail: shortest period of a texture, in pixels; a clip has one from that to twice as long.
        contrast: of a texture. distractors: how many. camera: how far it sways to each side, in
        shorter sides. noise: standard deviation, in grey levels of 256. blur: standard deviation
        of a Gaussian, in pixels. crf: compression of H.264.

    Raises:
        ValueError: a dial is out of its range.
    """

    detail: float = 5.0
    contrast: float = 0.8
    distractors: int = 1
    camera: float = 0.1
    noise: float = 8.0
    blur: float = 0.4
    crf: int = 20

    classes: ClassVar[tuple[str, ...]] = tuple(f"{t}_{path}" for t in TEXTURES for path in PATHS)
    # Nearly square: a crop of the middle must show the target.
    aspect_ratios: ClassVar[tuple[tuple[int, int], ...]] = ((1, 1), (7, 6), (6, 7))

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {value}")

    @classmethod
    def with_dials(cls, words: Sequence[str]) -> "HardScenes":
        """Returns the scenes with dials such as ``["detail=2", "noise=20"]`` set.

        Raises:
            ValueError: there is no such dial, or its value is no number or out of its range.
        """
        dials: dict[str, Any] = {}
        for word in words:
            name, _, text = word.partition("=")
            check_known("dial", name, RANGES)
            try:
                dials[name] = type(getattr(cls, name))(text)
            except ValueError:
                raise ValueError(f"{word}: {text!r} is not a number for {name}") from None
        return cls(**dials)

    def settings(self) -> dict[str, object]:
        """Returns what the pixels depend on, for the manifest of a set."""
        return {"hard": {**asdict(self), "paths": list(PATHS)}}

    def render(
        self,
        seed: int | Sequence[int],
        name: str,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
    ) -> np.ndarray:
        """Returns the frames of a clip of class ``name``, (T, H, W, 3) uint8 RGB."""
        check_known("class", name, self.classes)
        texture, path = name.split("_")
        rng = np.random.default_rng(seed)
        seconds = np.arange(num_frames) / fps
        short = min(height, width)
        ground = background(rng)
        camera = _sway(rng, short * self.camera, (0.15, 0.35), seconds)
        others = [t for t in TEXTURES if t != texture]
        target = np.array([height, width]) / 2 + _path(rng, path, short, seconds)
        discs = [self._disc(rng, texture, short, target)]
        for _ in range(self.distractors):
            start = np.array([height, width]) / 2 + short * rng.uniform(-0.45, 0.45, 2)
            tremble = start + _sway(rng, 0.03 * short, (0.6, 1.2), seconds)
            discs.append(self._disc(rng, others[rng.integers(len(others))], short, tremble))
        rng.shuffle(discs)  # any of them may hide another
        offset = rng.uniform(0, TEXTURE, 2)
        frames = np.empty((num_frames, height, width, 3), np.uint8)
        for k in range(num_frames):
            image = _ground(ground, offset + 2 * camera[k], height, width)
            for disc in discs:
                # What leaves on one side comes back on the other.
                world = np.array([height, width]) + 2 * disc.radius
                place = (disc.path[k] - camera[k] + disc.radius) % world - disc.radius
                disc.draw(image, place)
            image = _blurred(image, self.blur * short / 64)
            image += self.noise * rng.standard_normal((height, width, 1), np.float32)
            frames[k] = np.clip(image + 0.5, 0, 255)
        return frames

    def _disc(
        self, rng: np.random.Generator, texture: str, short: int, path: np.ndarray
    ) -> "_Disc":
        period = self.detail * rng.uniform(1, 2) * short / 64
        amplitude = 127 * self.contrast * rng.uniform(0.7, 1) * rng.choice((-1, 1))
        colour = rng.uniform(80, 175, 3)
        return _Disc(
            texture, short * rng.uniform(0.15, 0.2), path, 2 * np.pi / period,
            rng.uniform(0, 2 * np.pi, 2), colour, amplitude,
        )  # fmt: skip


@dataclass(frozen=True)
class _Disc:
    """A textured disc; lengths in pixels of the file, places are (y, x)."""

    texture: str
    radius: float
    path: np.ndarray  # (T, 2) where it is, for a camera at rest
    waves: float  # radians a pixel
    phases: np.ndarray  # (2,)
    colour: np.ndarray  # (3,) the mean
    amplitude: float  # grey levels

    def draw(self, image: np.ndarray, place: np.ndarray) -> None:
        """Draws the disc with its middle at ``place`` into an image (H, W, 3) float32."""
        first = np.maximum(np.floor(place - self.radius), 0).astype(int)
        last = np.minimum(np.ceil(place + self.radius) + 1, image.shape[:2]).astype(int)
        if (first >= last).any():
            return
        y = (np.arange(first[0], last[0]) - place[0])[:, None]
        x = (np.arange(first[1], last[1]) - place[1])[None, :]
        opacity = np.clip(self.radius - np.hypot(y, x) + 0.5, 0, 1)[..., None]
        content = self.colour + self.amplitude * self.pattern(y, x)[..., None]
        part = image[first[0] : last[0], first[1] : last[1]]
        part += (opacity * (content - part)).astype(np.float32)

    def pattern(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Returns waves of one length and power, at (y, x) from the middle; (H, W), about -1..1."""
        first, second = self.phases
        diagonal = math.sqrt(0.5)
        u, v = self.waves * x, self.waves * y
        if self.texture == "rings":
            return np.sin(np.hypot(u, v) + first)
        if self.texture == "chequered":
            return diagonal * (np.sin(u + first) + np.sin(v + second))
        along = {
            "horizontal": v + 0 * u,
            "vertical": u + 0 * v,
            "rising": diagonal * (u + v),
            "falling": diagonal * (u - v),
        }
        return np.sin(along[self.texture] + first)


def _path(rng: np.random.Generator, path: str, short: int, seconds: np.ndarray) -> np.ndarray:
    """Returns where the target is at each moment, (T, 2) pixels from the middle.

    It takes the whole clip for its path. So it is in view all the time, and a part of a clip shows
    it anywhere, whatever its path.
    """
    middle, distance = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.5, 0.8)
    travelled = distance * (seconds / max(seconds[-1], 1e-6) - 0.5)
    return short * (middle + travelled[:, None] * np.array(PATHS[path]))


def _sway(
    rng: np.random.Generator, reach: float, rates: tuple[float, float], seconds: np.ndarray
) -> np.ndarray:
    """Returns a swaying place, (T, 2) pixels; reach: pixels to each side, rates: a second."""
    rate, phase = rng.uniform(*rates, 2), rng.uniform(0, 2 * np.pi, 2)
    return reach * np.sin(2 * np.pi * rate * seconds[:, None] + phase)


def _ground(ground: np.ndarray, start: np.ndarray, height: int, width: int) -> np.ndarray:
    y = np.round(start[0] + 2 * np.arange(height)).astype(np.int64) % TEXTURE
    x = np.round(start[1] + 2 * np.arange(width)).astype(np.int64) % TEXTURE
    return ground.take(y, axis=0).take(x, axis=1)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    reach = math.ceil(3 * sigma)
    if not reach:
        return image
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if k == axis else (0, 0) for k in range(3)]
        padded, size = np.pad(image, pad, "edge"), image.shape[axis]
        image = sum(tap * padded.take(range(k, k + size), axis) for k, tap in enumerate(taps))
    return image
