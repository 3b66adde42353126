"""Transforms of still images, which Pillow resizes: it averages where it makes smaller.

Pixels stay uint8; mean and deviation are taken off by `normalize`, on the device of the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from PIL import Image

from octvideo.data import frame_ops
from octvideo.data.augment import Augmentation
from octvideo.data.read.frames import Convert
from octvideo.data.transforms import Box, random_region

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class PCANoise:
    """Adds the same colour to every pixel: sum of strength * N(0, 1) * eigval * eigvec.

    eigval and eigvec (a column each) describe the colours of ImageNet, R, G, B in [0, 1].
    (Krizhevsky et al., "ImageNet Classification with Deep CNNs", section 4.1.)
    """

    strength: float
    eigval: Sequence[float]
    eigvec: Sequence[Sequence[float]]

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes uint8 (..., 3), rounded and clipped to 0..255."""
        share = rng.normal(0.0, self.strength, 3) * self.eigval
        offset = 255 * (np.asarray(self.eigvec) @ share)
        table = np.clip(np.arange(256)[:, None] + offset + 0.5, 0, 255).astype(np.uint8)
        return table[pixels, np.arange(3)]


@dataclass(frozen=True)
class ImageTransform:
    """A random region of an image, resized to a square, mirrored, recoloured, erased.

    scales and aspects: of `random_region`. color_jitter: brightness, contrast and saturation, in
    a random order, each by a factor in 1 +- color_jitter. augmentation: its RandAugment takes the
    place of jitter and noise; its erasing, whose values go beyond 0..255, makes float32 pixels.
    """

    crop_size: int = 224
    scales: tuple[float, ...] = (0.08, 1.0)
    aspects: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: bool = True
    color_jitter: float = 0.0
    noise: PCANoise | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __call__(
        self, clip: Callable[[Convert], torch.Tensor], rng: np.random.Generator
    ) -> list[torch.Tensor]:
        """Makes a view (3, 1, s, s) of a clip of one frame (`Frames.clip`) for each copy."""
        copies = self.augmentation.clean_copies()
        return [clip(partial(self._of_frames, rng=rng, clean=clean)) for clean in copies]

    def _of_frames(self, frames: np.ndarray, rng: np.random.Generator, clean: bool) -> torch.Tensor:
        return self.view(Image.fromarray(frames[0]), rng, clean)

    def view(
        self, image: Image.Image, rng: np.random.Generator, clean: bool = False
    ) -> torch.Tensor:
        """Makes a view of an RGB image: (3, 1, s, s), 0..255, uint8, or float32 with erasing.

        clean: nothing is erased.
        """
        s = self.crop_size
        y, x, h, w = random_region(image.height, image.width, rng, self.scales, self.aspects)
        box = (x, y, x + w, y + h)
        pixels = np.asarray(image.resize((s, s), Image.Resampling.BILINEAR, box))[None]
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, :, ::-1]
        if self.augmentation.rand_augment:
            pixels = self.augmentation.rand_augment(np.ascontiguousarray(pixels), rng)
        else:
            pixels = self._recoloured(pixels, rng)
        video = torch.from_numpy(pixels.copy()).permute(3, 0, 1, 2)  # of one frame
        if self.augmentation.erasing:
            video = video.float()
            if not clean:
                self.augmentation.erasing(video, rng)
        return video

    def _recoloured(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.color_jitter:
            lowest, highest = max(0.0, 1 - self.color_jitter), 1 + self.color_jitter
            factors = rng.uniform(lowest, highest, len(_JITTER))
            for index in rng.permutation(len(_JITTER)):
                pixels = _JITTER[index](pixels, factors[index])
        return self.noise(pixels, rng) if self.noise else pixels


_JITTER = (frame_ops.brightness, frame_ops.contrast, frame_ops.color)


def resize_crop_pillow(
    frames: np.ndarray, size: tuple[int, int], box: Box, interpolation: str
) -> torch.Tensor:
    """Does what `resize_crop` does with the antialiasing of Pillow.

    frames: uint8 (T, H, W, 3). Returns uint8 (3, T, crop_h, crop_w).
    """
    top, left, crop_h, crop_w = box
    height, width = frames.shape[1:3]
    y, x = height / size[0], width / size[1]
    # Only the crop is computed; Pillow looks beyond the box where a pixel needs it.
    part = (left * x, top * y, min((left + crop_w) * x, width), min((top + crop_h) * y, height))
    method = INTERPOLATIONS[interpolation]
    crops = [np.asarray(Image.fromarray(f).resize((crop_w, crop_h), method, part)) for f in frames]
    return torch.from_numpy(np.stack(crops)).permute(3, 0, 1, 2)
