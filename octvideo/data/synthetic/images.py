"""A small set of real JPEG files: coloured shapes on textured ground, in class folders.

A class is a hue, which low frequencies carry, and a fill, which high ones do: cool_plain,
warm_striped ... Shape, size, turn, place, and the ground and its colour are random.
"""

import colorsys
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from octvideo.data.synthetic.scenes import background
from octvideo.utils.files import has_content, write_whole

SHAPES = ("disc", "cross")
HUES = {"cool": (0.45, 0.7), "warm": (-0.08, 0.17)}  # ranges of the circle; red is 0
FILLS = ("plain", "striped", "chequered")
CLASSES = tuple(sorted(f"{hue}_{fill}" for hue in HUES for fill in FILLS))
MANIFEST = "synthetic_images.json"  # written last: its presence says that the set is complete
FORMAT_VERSION = 2  # to be raised when the same settings no longer give the same pixels
_SPLITS = ("train", "val")


def render_image(seed: int | list[int], name: str, height: int, width: int) -> np.ndarray:
    """Draws an image of class ``name``, uint8 (height, width, 3)."""
    hue, fill = name.split("_")
    rng = np.random.default_rng(seed)
    image, short = background(rng)[:height, :width], min(height, width)
    radius = short * rng.uniform(0.34, 0.44)
    # Within the middle square, which is what a validation sees.
    y0, x0 = (side / 2 + rng.uniform(-1, 1) * (short / 2 - radius) for side in (height, width))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    u = (x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)
    v = (y - y0) * np.cos(turn) - (x - x0) * np.sin(turn)
    outline = _inside(SHAPES[rng.integers(len(SHAPES))], u, v, radius)
    opacity = np.clip(outline + 0.5, 0, 1)[..., None]
    colour = 255 * np.array(
        colorsys.hsv_to_rgb(rng.uniform(*HUES[hue]) % 1, rng.uniform(0.7, 1), rng.uniform(0.7, 1))
    )
    waves = 2 * np.pi / (radius * rng.uniform(0.28, 0.4))
    share = np.clip(2 * _pattern(fill, waves * u, waves * v) + 0.5, 0, 1)[..., None]
    content = colour * (1 - rng.uniform(0.6, 0.9) * share)  # a darker shade
    return (image + opacity * (content - image) + 0.5).clip(0, 255).astype(np.uint8)


def _pattern(fill: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Waves in -1..1 along u and v (radians)."""
    if fill == "plain":
        return np.full_like(u, -1)
    return np.sin(u) if fill == "striped" else 2 * np.sin(u) * np.sin(v)


def _inside(shape: str, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Pixels from the outline, positive within; u and v are from the middle of the shape."""
    if shape == "disc":
        return 0.85 * radius - np.hypot(u, v)
    first = np.minimum(radius - abs(u), 0.35 * radius - abs(v))
    return np.maximum(first, np.minimum(radius - abs(v), 0.35 * radius - abs(u)))


def make_synthetic_images(
    out_dir: str | Path, *, num_train: int = 1600, num_val: int = 400, seed: int = 0
) -> bool:
    """Makes the set in ``out_dir``; False where the same set was already there, whole.

    Layout: ``{train,val}/{class}/{index}.jpg``, labels in alphabetical order of the classes. The
    pixels depend on ``seed`` alone. FileExistsError where ``out_dir`` holds something else,
    ValueError for a negative number, OSError where the disk refuses.
    """
    if min(num_train, num_val, seed) < 0:
        raise ValueError(f"numbers must not be negative, got {num_train}, {num_val}, seed {seed}")
    settings = {"format": FORMAT_VERSION, "train": num_train, "val": num_val, "seed": seed}
    root = Path(out_dir)
    manifest, unfinished = root / MANIFEST, root / f"unfinished_{MANIFEST}"
    found = next((path for path in (manifest, unfinished) if path.exists()), None)
    if found is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} holds something else; choose a new or empty folder")
    if found is not None and json.loads(found.read_text()) != settings:
        raise FileExistsError(f"{root} holds a set with other settings; choose another folder")
    if found == manifest:
        return False
    root.mkdir(parents=True, exist_ok=True)
    write_whole(unfinished, json.dumps(settings) + "\n")
    for split in _SPLITS:
        for index in range(settings[split]):
            name = CLASSES[index % len(CLASSES)]
            path = root / split / name / f"{index:05d}.jpg"
            if not has_content(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, _jpeg([seed, _SPLITS.index(split), index], name))
    write_whole(manifest, json.dumps(settings) + "\n")
    unfinished.unlink(missing_ok=True)  # another job may have made the same set
    return True


def _jpeg(seed: list[int], name: str) -> bytes:
    """Returns a file whose size does not depend on the class."""
    height, width = (int(n) for n in np.random.default_rng([*seed, 1]).integers(64, 97, 2))
    file = io.BytesIO()
    Image.fromarray(render_image([*seed, 2], name, height, width)).save(file, "JPEG", quality=90)
    return file.getvalue()
