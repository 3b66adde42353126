"""2D ResNets as the start of video networks.

A 2D kernel becomes a video kernel by W3d[:, :, t] = W2d / kt for each of its kt frames (Carreira
and Zisserman, "Quo Vadis, Action Recognition?"): on a video that stands still, the video network
then computes what the 2D network computes on a frame.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Size, Tensor

_PREFIXES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"conv1\.", r"s1.pathway0_stem.conv."),
        (r"bn1\.", r"s1.pathway0_stem.bn."),
        (r"layer(\d)\.(\d+)\.conv(\d)\.", r"s{stage}.pathway0_res\2.branch2.{letter}."),
        (r"layer(\d)\.(\d+)\.bn(\d)\.", r"s{stage}.pathway0_res\2.branch2.{letter}_bn."),
        (r"layer(\d)\.(\d+)\.downsample\.0\.", r"s{stage}.pathway0_res\2.branch1."),
        (r"layer(\d)\.(\d+)\.downsample\.1\.", r"s{stage}.pathway0_res\2.branch1_bn."),
        (r"fc\.", r"head.projection."),
    )
)


def is_resnet2d(keys: Iterable[str]) -> bool:
    """Whether the names are those of torchvision's ResNets, which timm has too."""
    return {"conv1.weight", "layer1.0.conv1.weight"} <= set(keys)


def resnet2d_names(keys: Iterable[str]) -> dict[str, str]:
    """torchvision's and timm's names -> ours; unknown ones stay."""
    return {key: _name(key) for key in keys}


def _name(key: str) -> str:
    for pattern, ours in _PREFIXES:
        if match := pattern.match(key):
            numbers = match.groups()
            stage = int(numbers[0]) + 1 if numbers else 1
            letter = "_abc"[int(numbers[2])] if len(numbers) == 3 else ""
            prefix = match.expand(ours).format(stage=stage, letter=letter)
            return prefix + key[match.end() :]
    return key


def is_2d(state: Mapping[str, Tensor]) -> bool:
    """Whether the kernels of a network (under our names) are those of a 2D one."""
    stem = state.get("s1.pathway0_stem.conv.weight")
    return stem is not None and stem.ndim == 4


def has_one_frame(state: Mapping[str, Tensor]) -> bool:
    """Whether all kernels have three dimensions, of which time is one frame.

    So have networks of videos without convolution in time, and PySlowFast's networks of images.
    """
    kernels = [value for value in state.values() if value.ndim == 5]
    return bool(kernels) and all(kernel.shape[2] == 1 for kernel in kernels)


def as_images(state: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> dict[str, Tensor]:
    """The kernels (out, in, 1, h, w) of ``state`` as (out, in, h, w) where the model has these."""
    return {
        key: value.squeeze(2)
        if value.ndim == 5 and value.shape[2] == 1 and len(shapes.get(key, ())) == 4
        else value
        for key, value in state.items()
    }


def inflate(state: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> dict[str, Tensor]:
    """The kernels (out, in, h, w) or (out, in, 1, h, w) as (out, in, kt, h, w), kt of the model.

    ``shapes`` are those of the model. Everything else stays as it is.
    """
    return {key: _inflated(value, shapes.get(key, Size())) for key, value in state.items()}


def _inflated(weight: Tensor, shape: Size) -> Tensor:
    if len(shape) != 5 or not (weight.ndim == 4 or (weight.ndim == 5 and weight.shape[2] == 1)):
        return weight
    frames = shape[2]
    kernel = weight if weight.ndim == 5 else weight.unsqueeze(2)
    return kernel.repeat(1, 1, frames, 1, 1) / frames
