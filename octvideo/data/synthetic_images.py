"""A small set of real JPEG files: shapes of random colours on textured ground, in class folders.

A class is a shape and how it is filled, neither a colour nor a place: disc_plain, cross_striped ...
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from octvideo.data.scenes import background
from octvideo.utils.files import write_whole

SHAPES = ("disc", "cross")
FILLS = ("plain", "striped", "ringed")
CLASSES = tuple(sorted(f"{shape}_{fill}" for shape in SHAPES for fill in FILLS))
MANIFEST = "synthetic_images.json"  # written last: its presence says that the set is complete
_SPLITS = ("train", "val")


def render_picture(seed: int | list[int], name: str, height: int, width: int) -> np.ndarray:
    """A picture of class ``name``, uint8 (height, width, 3)."""
    shape, fill = name.split("_")
    rng = np.random.default_rng(seed)
    texture, short = background(rng), min(height, width)
    picture = texture[:height, :width].copy()
    radius = short * rng.uniform(0.3, 0.42)
    y0, x0 = (rng.uniform(0.9 * radius, side - 0.9 * radius) for side in (height, width))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    u = (x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)
    v = (y - y0) * np.cos(turn) - (x - x0) * np.sin(turn)
    opacity = np.clip(_inside(shape, u, v, radius) + 0.5, 0, 1)[..., None]
    ground = picture.mean((0, 1))
    colour = (ground + rng.uniform(90, 150, 3) * rng.choice((-1, 1), 3)).clip(0, 255)
    content = np.broadcast_to(colour, picture.shape)
    if fill != "plain":
        phase = 2 * np.pi / (radius * rng.uniform(0.5, 0.7))
        waves = {
            "striped": np.sin(phase * u),
            "ringed": np.sin(phase * np.hypot(u, v)),
        }
        share = np.clip(2 * waves[fill] + 0.5, 0, 1)[..., None]
        content = colour + share * (255 - 2 * colour)  # its complement
    return (picture + opacity * (content - picture) + 0.5).clip(0, 255).astype(np.uint8)


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
    root, settings = Path(out_dir), {"train": num_train, "val": num_val, "seed": seed}
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
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, _jpeg([seed, _SPLITS.index(split), index], name))
    unfinished.replace(manifest)
    return True


def _jpeg(seed: list[int], name: str) -> bytes:
    """A file of a size that does not depend on the class."""
    height, width = (int(n) for n in np.random.default_rng([*seed, 1]).integers(64, 113, 2))
    file = io.BytesIO()
    Image.fromarray(render_picture([*seed, 2], name, height, width)).save(file, "JPEG", quality=90)
    return file.getvalue()
