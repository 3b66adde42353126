"""Maps names of PyTorchVideo's networks, as in its zoo, to ours.

Its blocks are numbered: the stem is block 0, then come the stages, with a pool between the first
two where the network has one, so which stage a block is depends on the others.
"""

import re
from collections.abc import Iterable

_KEY = re.compile(r"(?:model\.)?blocks\.(\d+)\.(?:multipathway_blocks\.(\d)\.)?(.+)\.(\w+)")
_STAGE = re.compile(r"(?:model\.)?blocks\.(\d+)\.(?:multipathway_blocks\.\d\.)?res_blocks\..+")
_BRANCH, _OURS = r"res_blocks\.(\d+)\.branch2\.", r"{stage}.{pathway}_res\1.branch2."
_LAYERS = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"conv", r"{stage}.{pathway}_stem.conv"),
        (r"conv\.conv_t", r"{stage}.{pathway}_stem.conv_xy"),  # X3D: it has their names swapped
        (r"conv\.conv_xy", r"{stage}.{pathway}_stem.conv"),
        (r"norm", r"{stage}.{pathway}_stem.bn"),
        (r"res_blocks\.(\d+)\.branch1_conv", r"{stage}.{pathway}_res\1.branch1"),
        (r"res_blocks\.(\d+)\.branch1_norm", r"{stage}.{pathway}_res\1.branch1_bn"),
        (_BRANCH + r"conv_([abc])", _OURS + r"\2"),
        (_BRANCH + r"conv_b\.conv_t", _OURS + "b_t"),  # R(2+1)D
        (_BRANCH + r"conv_b\.norm", _OURS + "b_t_bn"),
        (_BRANCH + r"conv_b\.conv_xy", _OURS + "b"),
        (_BRANCH + r"norm_([abc])(?:\.0)?", _OURS + r"\2_bn"),
        (_BRANCH + r"norm_b\.1\.block\.0", _OURS + r"se.fc1"),
        (_BRANCH + r"norm_b\.1\.block\.2", _OURS + r"se.fc2"),
        (r"multipathway_fusion\.conv_fast_to_slow", r"{stage}_fuse.conv_f2s"),
        (r"multipathway_fusion\.norm", r"{stage}_fuse.bn"),
        (r"pool\.pre_conv", r"head.conv_5"),
        (r"pool\.pre_norm", r"head.conv_5_bn"),
        (r"pool\.post_conv", r"head.lin_5"),
        (r"pool\.post_norm", r"head.lin_5_bn"),
        (r"proj", r"head.projection"),
    )
)


def is_pytorchvideo(key: str) -> bool:
    """Returns whether a parameter has a name that PyTorchVideo gives."""
    return bool(_KEY.fullmatch(key))


def pytorchvideo_names(keys: Iterable[str]) -> dict[str, str]:
    """Maps PyTorchVideo's names to ours; needs all names of a model, unknown ones stay."""
    keys = list(keys)
    blocks = sorted({int(match[1]) for key in keys if (match := _STAGE.fullmatch(key))})
    stages = {0: "s1"} | {block: f"s{i}" for i, block in enumerate(blocks, start=2)}
    return {key: _name(key, stages) for key in keys}


def _name(key: str, stages: dict[int, str]) -> str:
    match = _KEY.fullmatch(key)
    if match is None:
        return key
    block, pathway, layer, parameter = match.groups()
    places = {"stage": stages.get(int(block), ""), "pathway": f"pathway{pathway or 0}"}
    for pattern, ours in _LAYERS:
        if found := pattern.fullmatch(layer):
            return f"{found.expand(ours).format(**places)}.{parameter}"
    return key
