"""Names of torchvision's 2D ResNets, which timm shares, to ours."""

import re
from collections.abc import Iterable

_LAYERS = tuple(
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


def is_torchvision(keys: Iterable[str]) -> bool:
    """Returns whether the names are those of a torchvision ResNet."""
    return {"conv1.weight", "layer1.0.conv1.weight"} <= set(keys)


def torchvision_names(keys: Iterable[str]) -> dict[str, str]:
    """Maps torchvision's names to ours; unknown names map to themselves."""
    return {key: _name(key) for key in keys}


def _name(key: str) -> str:
    for pattern, ours in _LAYERS:
        if match := pattern.match(key):
            numbers = match.groups()
            stage = int(numbers[0]) + 1 if numbers else 1
            letter = "_abc"[int(numbers[2])] if len(numbers) == 3 else ""
            prefix = match.expand(ours).format(stage=stage, letter=letter)
            return prefix + key[match.end() :]
    return key
