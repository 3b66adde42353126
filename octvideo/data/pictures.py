"""One picture: read from a file, and made into the input of a network.

Resizing is Pillow's, which averages where it makes smaller. Pixels stay uint8; mean and deviation
are taken off by `normalize`, on the device of the model.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from octvideo.data import frame_ops, protocol
from octvideo.data.augment import RandAugment, RandomErasing
from octvideo.data.read.packet_index import VideoError
from octvideo.data.sampling import crop_offsets
from octvideo.data.transforms import random_region, short_side_size

# Formats of photographs: the rare ones that Pillow reads too are where its faults are found.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM")
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".ppm")
MAX_PIXELS = 89_478_485  # Pillow's own limit, from which on it speaks of a decompression bomb
# Besides OSError, Pillow's decoders let these out where a file contradicts itself.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class ImageError(VideoError):
    """A picture can not be read. `path` is the file, `reason` what is wrong with it."""


def is_picture(path: str) -> bool:
    """Whether a file is one for `read_picture`, by its name or by how it begins."""
    if path.lower().endswith(ENDINGS):
        return True
    if not os.path.isfile(path):
        return False
    try:
        Image.open(path, formats=FORMATS).close()
    except _DAMAGED:
        return False
    return True


def read_picture(path: str) -> Image.Image:
    """The picture of a file, upright (EXIF), in RGB: grey, palette and CMYK files too.

    Of 16 bits the upper 8 are taken, of an animation the first picture; transparency is ignored.

    Raises:
        ImageError: no such file, no picture of FORMATS, damaged, truncated or absurdly large.
    """
    if not os.path.isfile(path):  # a pipe would block
        raise ImageError(path, "is not a file" if os.path.exists(path) else "no such file")
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ImageError(path, f"{width}x{height} pixels, more than {MAX_PIXELS}")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise ImageError(path, f"does not begin like any of {', '.join(FORMATS)}") from error
    except _DAMAGED as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(path, text.replace(path, "file")) from error


# ------------------------------------------------------------------------------------ training


@dataclass(frozen=True)
class PCANoise:
    """Adds the same colour to every pixel: sum of strength * N(0, 1) * eigval * eigvec.

    eigval and eigvec (a column each) are those of the colours of ImageNet, of R, G, B in [0, 1].
    (Krizhevsky et al., "ImageNet Classification with Deep CNNs", section 4.1.)
    """

    strength: float
    eigval: Sequence[float]
    eigvec: Sequence[Sequence[float]]

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (..., 3) in and out, rounded and cut to 0..255."""
        share = rng.normal(0.0, self.strength, 3) * self.eigval
        offset = 255 * (np.asarray(self.eigvec) @ share)
        table = np.clip(np.arange(256)[:, None] + offset + 0.5, 0, 255).astype(np.uint8)
        return table[pixels, np.arange(3)]


@dataclass(frozen=True)
class PictureTransform:
    """A random region, resized to a square, mirrored, recoloured; a training picture's way.

    scales and aspects: of `random_region`. color_jitter: brightness, contrast and saturation, in
    a random order, each by a factor in 1 +- color_jitter. rand_augment takes the place of
    jitter and noise; erasing, whose values go beyond 0..255, makes the result float32.
    """

    crop_size: int = 224
    scales: tuple[float, ...] = (0.08, 1.0)
    aspects: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: bool = True
    color_jitter: float = 0.0
    noise: PCANoise | None = None
    rand_augment: RandAugment | None = None
    erasing: RandomErasing | None = None

    def __call__(
        self, picture: Image.Image, rng: np.random.Generator, clean: bool = False
    ) -> torch.Tensor:
        """RGB picture -> uint8 (float32 with erasing) (3, s, s), 0..255; clean: not erased."""
        s = self.crop_size
        y, x, h, w = random_region(picture.height, picture.width, rng, self.scales, self.aspects)
        box = (x, y, x + w, y + h)
        pixels = np.asarray(picture.resize((s, s), Image.Resampling.BILINEAR, box))[None]
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, :, ::-1]
        if self.rand_augment:
            pixels = self.rand_augment(np.ascontiguousarray(pixels), rng)
        else:
            pixels = self._recoloured(pixels, rng)
        video = torch.from_numpy(pixels.copy()).permute(3, 0, 1, 2)  # of one frame
        if self.erasing:
            video = video.float()
            if not clean:
                self.erasing(video, rng)
        return video[:, 0]

    def _recoloured(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.color_jitter:
            lowest, highest = max(0.0, 1 - self.color_jitter), 1 + self.color_jitter
            factors = rng.uniform(lowest, highest, len(_JITTER))
            for index in rng.permutation(len(_JITTER)):
                pixels = _JITTER[index](pixels, factors[index])
        return self.noise(pixels, rng) if self.noise else pixels


_JITTER = (frame_ops.brightness, frame_ops.contrast, frame_ops.color)


# ------------------------------------------------------------------------------------- testing


class CentreCrop(protocol.CentreCrop):
    """The record of the view, as a function of an image."""

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """RGB picture -> uint8 (3, s, s)."""
        return centre_view(picture, self)


def centre_view(picture: Image.Image, crop: protocol.CentreCrop) -> torch.Tensor:
    """RGB picture -> uint8 (3, s, s)."""
    s, (width, height) = crop.crop_size, picture.size
    size = short_side_size(height, width, crop.short_side)
    [(top, left)] = crop_offsets(*size, s, num_crops=1)
    y, x = height / size[0], width / size[1]
    # Only the crop is computed; Pillow looks beyond the box where a pixel needs it.
    box = (left * x, top * y, min((left + s) * x, width), min((top + s) * y, height))
    view = picture.resize((s, s), INTERPOLATIONS[crop.interpolation], box)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)
