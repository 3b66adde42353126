"""What the libraries of networks have published: which names, and how the weights see an input."""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from octvideo.utils.errors import UserError
from octvideo.utils.extras import import_extra

LIBRARIES = ("torchvision", "timm", "pytorchvideo")
_LARGEST_JITTER = 1.25  # PySlowFast: 256 to 320 for crops of 224
_FPS = 30.0  # DATA.TARGET_FPS, to which DATA.SAMPLING_RATE refers


@dataclass(frozen=True)
class PublishedInput:
    """How the weights that a library publishes look at an input.

    ``num_frames`` 1 is an image. ``short_side`` is resized to before a crop of ``test_crop_size``
    is cut out; training crops have ``crop_size``. ``frame_ratio``: of a network with two pathways,
    the frames of the fast one over those of the slow one.
    """

    num_frames: int
    sampling_rate: int
    crop_size: int
    test_crop_size: int
    short_side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    frame_ratio: int = 1

    def keys(self) -> dict[str, Any]:
        """Returns it as keys of a configuration."""
        common = {
            "DATA.NUM_FRAMES": self.num_frames,
            "DATA.TRAIN_CROP_SIZE": self.crop_size,
            "DATA.TEST_CROP_SIZE": self.test_crop_size,
            "DATA.MEAN": list(self.mean),
            "DATA.STD": list(self.std),
        }
        if self.num_frames == 1:
            ratio = self.test_crop_size / self.short_side
            of_images = {"IN_VAL_CROP_RATIO": ratio, "TEST_INTERPOLATION": self.interpolation}
            return common | {f"DATA.{name}": value for name, value in of_images.items()}
        scales = [self.short_side, math.ceil(self.short_side * _LARGEST_JITTER)]
        return common | {
            "DATA.SAMPLING_RATE": self.sampling_rate,
            "DATA.TRAIN_JITTER_SCALES": scales,
        }


def library_of(name: str) -> str | None:
    """Returns the library of "timm/resnet50", "timm"; None for any other name."""
    library, slash, rest = name.partition("/")
    return library if slash and rest and library in LIBRARIES else None


def published_input(name: str) -> PublishedInput | None:
    """Returns the input format of "library/name"; None for code of the user's own.

    Raises:
        UserError: the library is missing, or has no such network.
    """
    library = library_of(name)
    return None if library is None else _INPUTS[library](name)


def known_name(name: str, names: Iterable[str]) -> str:
    """Returns the "name" of "library/name", which is among the names of the library.

    Raises:
        UserError: it is not; the message has similar ones.
    """
    library, _, bare = name.partition("/")
    known = list(names)
    if bare not in known:
        near = difflib.get_close_matches(bare, known, cutoff=0.5)
        guess = f" Did you mean {' or '.join(f'{library}/{n}' for n in near)}?" if near else ""
        raise UserError(
            f"MODEL.MODEL_NAME {name}: {library} has no network {bare!r} that gives scores of "
            f"classes.{guess}"
        )
    return bare


def torchvision_name(name: str) -> str:
    """Returns torchvision's name of a classifier of images or videos, without "torchvision/"."""
    models = import_extra("torchvision.models", "torchvision", f"MODEL.MODEL_NAME {name}")
    rooms = (models, import_extra("torchvision.models.video", "torchvision", name))
    return known_name(name, [n for room in rooms for n in models.list_models(module=room)])


def timm_name(name: str) -> str:
    """Returns timm's name of a network; never of one that it would look for on a hub."""
    timm = import_extra("timm", "timm", f"MODEL.MODEL_NAME {name}")
    bare = name.partition("/")[2]
    return bare if timm.is_model(bare) else known_name(name, timm.list_models())


def pytorchvideo_name(name: str) -> str:
    """Returns the name of a function of PyTorchVideo's hub."""
    return known_name(name, _PYTORCHVIDEO)


def _of_torchvision(name: str) -> PublishedInput:
    bare = torchvision_name(name)
    models = import_extra("torchvision.models", "torchvision", name)
    weights = models.get_model_weights(bare).DEFAULT
    seen = weights.transforms()
    crop, short = seen.crop_size[0], min(seen.resize_size)
    if not isinstance(seen.mean, (list, tuple)) or len(seen.mean) != 3:
        raise UserError(f"MODEL.MODEL_NAME {name}: its input is not made of images")
    pixels = (tuple(seen.mean), tuple(seen.std))
    clip = re.search(r"clip_len=(\d+)", str(weights.meta.get("_docs")))
    if clip is None:
        return PublishedInput(1, 1, crop, crop, short, *pixels, seen.interpolation.value)
    rate = re.search(r"frame_rate=([\d.]+)", str(weights.meta["_docs"]))
    sampling_rate = round(_FPS / float(rate[1])) if rate else 1
    return PublishedInput(int(clip[1]), sampling_rate, crop, crop, short, *pixels)


def _of_timm(name: str) -> PublishedInput:
    bare = timm_name(name)
    timm = import_extra("timm", "timm", name)
    found = timm.get_pretrained_cfg(bare)
    if found is None:
        return PublishedInput(1, 1, 224, 224, 256, _IMAGENET_MEAN, _IMAGENET_STD)
    crop = found.input_size[-1]
    short = math.floor(crop / found.crop_pct)
    known = ("bilinear", "bicubic")
    return PublishedInput(
        *(1, 1, crop, crop, short),
        *(tuple(found.mean), tuple(found.std)),
        interpolation=found.interpolation if found.interpolation in known else "bilinear",
    )


def _of_pytorchvideo(name: str) -> PublishedInput:
    return _PYTORCHVIDEO[pytorchvideo_name(name)]


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_INPUTS: dict[str, Callable[[str], PublishedInput]] = {
    "torchvision": _of_torchvision,
    "timm": _of_timm,
    "pytorchvideo": _of_pytorchvideo,
}


def _kinetics(
    frames: int, rate: int, crop: int = 224, test: int = 256, ratio: int = 1
) -> PublishedInput:
    pixels = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
    return PublishedInput(frames, rate, crop, test, test, *pixels, frame_ratio=ratio)


# The classifiers of PyTorchVideo's hub, with the clips of its model zoo; crops of training are
# PySlowFast's and those of the papers. (Its mvit_base_16 takes images.)
_PYTORCHVIDEO = {
    "c2d_r50": _kinetics(8, 8),
    "i3d_r50": _kinetics(8, 8),
    "slow_r50": _kinetics(8, 8),
    "slowfast_r50": _kinetics(32, 2, ratio=4),
    "slowfast_r101": _kinetics(32, 2, ratio=4),
    "slowfast_16x8_r101_50_50": _kinetics(64, 2, ratio=4),
    "csn_r101": _kinetics(32, 2),
    "r2plus1d_r50": _kinetics(16, 4),
    "x3d_xs": _kinetics(4, 12, 160, 182),
    "x3d_s": _kinetics(13, 6, 160, 182),
    "x3d_m": _kinetics(16, 5),
    "x3d_l": _kinetics(16, 5, 312, 356),
    "efficient_x3d_xs": _kinetics(4, 12, 160, 182),
    "efficient_x3d_s": _kinetics(13, 6, 160, 182),
    "mvit_base_16x4": _kinetics(16, 4, 224, 224),
    "mvit_base_32x3": _kinetics(32, 3, 224, 224),
}
