"""RandAugment and random erasing of training clips, alike in all frames of a clip.

What is drawn comes from the NumPy generator that is passed in, so that a clip is the same
whichever process makes it. Ranges and probabilities are timm's and PySlowFast's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from octvideo.config.notation import RandAugmentSpec
from octvideo.data import frame_ops
from octvideo.data.read.frames import Convert
from octvideo.data.transforms import TrainTransform, training_view

MAX_MAGNITUDE = 10.0


# -------------------------------------------------------------------------------- RandAugment


@dataclass(frozen=True)
class RandAugment:
    """`spec.num_ops` random operations one after another, each skipped with probability 1/2.

    The strength of each is normal around spec.magnitude, cut to [0, 10]. interpolation of moved
    pixels: bilinear, bicubic, or random for one of the two each time. (Cubuk et al.,
    "RandAugment", in timm's variant.)
    """

    spec: RandAugmentSpec
    interpolation: str = "bicubic"

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes every frame of uint8 (T, H, W, 3) by the same operations and strengths."""
        weights = np.array([op.weight for op in _OPERATIONS]) if self.spec.weighted else None
        chosen = rng.choice(
            len(_OPERATIONS), self.spec.num_ops, replace=not self.spec.weighted, p=weights
        )
        for index in chosen:
            if rng.random() < 0.5:
                continue
            magnitude = rng.normal(self.spec.magnitude, self.spec.magnitude_std)
            share = min(max(magnitude, 0.0), MAX_MAGNITUDE) / MAX_MAGNITUDE
            operation = _OPERATIONS[index]
            arguments = operation.arguments(share, self.spec.increasing, rng)
            if operation.moves:
                arguments = (*arguments, self._interpolation(rng))
            frames = operation.apply(frames, *arguments)
        return frames

    def _interpolation(self, rng: np.random.Generator) -> str:
        if self.interpolation != "random":
            return self.interpolation
        return frame_ops.INTERPOLATIONS[rng.integers(len(frame_ops.INTERPOLATIONS))]


@dataclass(frozen=True)
class _Operation:
    """apply: of `frame_ops`. arguments: its arguments from the strength in [0, 1], whether
    strengths increase, and a generator. weight: its chance under w0. moves: it interpolates."""

    apply: Callable[..., np.ndarray]
    arguments: Callable[[float, bool, np.random.Generator], tuple]
    weight: float
    moves: bool = False


def _either_sign(value: float, rng: np.random.Generator) -> float:
    return -value if rng.random() < 0.5 else value


def _nothing(share: float, increasing: bool, rng: np.random.Generator) -> tuple:
    return ()


def _up_to(limit: float) -> Callable[[float, bool, np.random.Generator], tuple]:
    """Spreads the strength over 0 to +-limit."""
    return lambda share, increasing, rng: (_either_sign(share * limit, rng),)


def _enhancement(share: float, increasing: bool, rng: np.random.Generator) -> tuple:
    """Returns a factor from 0.1 to 1.9; increasing: from 1, no change, to one of the two."""
    return (1 + _either_sign(0.9 * share, rng) if increasing else 0.1 + 1.8 * share,)


def _bits(share: float, increasing: bool, rng: np.random.Generator) -> tuple:
    """Bits that are kept, from 0 to 4; increasing: from 4 to 0."""
    return (4 - int(4 * share) if increasing else int(4 * share),)


def _threshold(share: float, increasing: bool, rng: np.random.Generator) -> tuple:
    return (256 - int(256 * share) if increasing else int(256 * share),)


def _addition(share: float, increasing: bool, rng: np.random.Generator) -> tuple:
    return (int(110 * share),)


_OPERATIONS = (
    _Operation(frame_ops.auto_contrast, _nothing, 0.025),
    _Operation(frame_ops.equalize, _nothing, 0.005),
    _Operation(frame_ops.invert, _nothing, 0.0),
    _Operation(frame_ops.rotate, _up_to(30.0), 0.3, moves=True),
    _Operation(frame_ops.posterize, _bits, 0.0),
    _Operation(frame_ops.solarize, _threshold, 0.005),
    _Operation(frame_ops.solarize_add, _addition, 0.005),
    _Operation(frame_ops.color, _enhancement, 0.025),
    _Operation(frame_ops.contrast, _enhancement, 0.005),
    _Operation(frame_ops.brightness, _enhancement, 0.005),
    _Operation(frame_ops.sharpness, _enhancement, 0.025),
    _Operation(frame_ops.shear_x, _up_to(0.3), 0.2, moves=True),
    _Operation(frame_ops.shear_y, _up_to(0.3), 0.2, moves=True),
    _Operation(frame_ops.translate_x, _up_to(0.45), 0.1, moves=True),
    _Operation(frame_ops.translate_y, _up_to(0.45), 0.1, moves=True),
)


# ----------------------------------------------------------------------------- random erasing


@dataclass(frozen=True)
class RandomErasing:
    """With `probability`, erases 1 to max_count boxes, the same ones in every frame.

    A box has 1/50 to 1/3 of the frame's area, shared among the boxes, and a height / width from
    0.3 to 1 / 0.3. mode: what it becomes, in normalised values (mean 0, deviation 1): `pixel`
    normal noise, `rand` a normal colour for each frame, `const` 0. mean and std, of values in
    [0, 1], are those that `normalize` will take off; pixels are written so that it gives the
    values above. (Zhong et al., "Random Erasing Data Augmentation", in timm's variant.)
    """

    probability: float
    mode: str = "pixel"
    max_count: int = 1
    mean: Sequence[float] = (0.45, 0.45, 0.45)
    std: Sequence[float] = (0.225, 0.225, 0.225)

    def __call__(self, video: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Changes float32 (3, T, h, w), values 0..255, in place and returns it."""
        if rng.random() >= self.probability:
            return video
        _, frames, height, width = video.shape
        count = int(rng.integers(1, self.max_count + 1))
        for _ in range(count):
            box = self._box(height, width, count, rng)
            if box is not None:
                top, left, h, w = box
                video[:, :, top : top + h, left : left + w] = self._content(frames, h, w, rng)
        return video

    def _box(
        self, height: int, width: int, count: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int] | None:
        """Draws top, left, height, width of a box smaller than the frame; None after 100 misses."""
        for _ in range(100):
            area = rng.uniform(0.02, 1 / 3) * height * width / count
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        return None

    def _content(self, frames: int, h: int, w: int, rng: np.random.Generator) -> torch.Tensor:
        """Returns (3, T, h, w) or what spreads to it, values 0..255 (noise goes beyond them)."""
        shape = {"pixel": (3, frames, h, w), "rand": (3, frames, 1, 1), "const": (3, 1, 1, 1)}
        noise = np.zeros((3, 1, 1, 1), np.float32)
        if self.mode != "const":
            noise = rng.standard_normal(shape[self.mode], dtype=np.float32)
        mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (self.mean, self.std))
        return (torch.from_numpy(noise) * std + mean) * 255


# --------------------------------------------------------------------------------- all of it


@dataclass(frozen=True)
class Augmentation:
    """What PySlowFast's section AUG adds to crop and flip.

    copies: clips that one video gives, each drawn separately from the same frames. clean_first: the
    first of several copies is not erased. Erasing is for float32 pixels: noise goes beyond 0..255.
    """

    rand_augment: RandAugment | None = None
    erasing: RandomErasing | None = None
    copies: int = 1
    clean_first: bool = False

    def clean_copies(self) -> list[bool]:
        """Returns for each copy whether it is spared from erasing."""
        return [self.clean_first and copy == 0 < self.copies - 1 for copy in range(self.copies)]


@dataclass(frozen=True)
class ClipTransform:
    """Makes the training views of a clip: RandAugment on whole frames, crop, flip, then erasing."""

    crop: TrainTransform
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.augmentation.erasing and self.crop.pixels != "float32":
            raise ValueError("random erasing needs pixels float32")

    def __call__(
        self, clip: Callable[[Convert], torch.Tensor], rng: np.random.Generator
    ) -> list[torch.Tensor]:
        """Makes a view (3, T, s, s) of a clip (`Frames.clip`) for each copy (`training_view`)."""
        views, extra = [], self.augmentation
        for clean in extra.clean_copies():
            before = rng.bit_generator.state

            def change(frames: np.ndarray, before: Mapping[str, object] = before) -> torch.Tensor:
                rng.bit_generator.state = before  # every part of a clip gets the same
                changed = extra.rand_augment(frames, rng) if extra.rand_augment else frames
                return training_view(changed, rng, self.crop)

            video = clip(change)
            views.append(extra.erasing(video, rng) if extra.erasing and not clean else video)
        return views
