"""Checkpoints of PySlowFast: its own ``.pyth`` files and the Caffe2 pickles of its zoo.

The names of a ``.pyth`` file are ours. A Caffe2 pickle is ``{"blobs": {name: array}}``, written by
Python 2; its ``_riv`` blobs hold variances, in spite of the "i" for inverse.
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from octvideo.weights.formats.array_pickle import read_blobs
from octvideo.weights.formats.files import CheckpointError
from octvideo.weights.formats.torch_file import check_shared

# Layer -> prefix of ours; # is the pathway: 1 (fast) for layers that begin with t_.
_LAYERS = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"(?:t_)?conv1", r"s1.pathway#_stem.conv"),
        (r"(?:t_)?res_conv1_bn", r"s1.pathway#_stem.bn"),
        (r"(?:t_)?res(\d)_(\d+)_branch1(|_bn)", r"s\1.pathway#_res\2.branch1\3"),
        (r"(?:t_)?res(\d)_(\d+)_branch2([abc])(|_bn)", r"s\1.pathway#_res\2.branch2.\3\4"),
        (r"nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)", r"s\1.pathway#_nonlocal\2.conv_\3"),
        (r"nonlocal_conv(\d)_(\d+)_bn", r"s\1.pathway#_nonlocal\2.bn"),
        (r"t_pool(1)_subsample", r"s\1_fuse.conv_f2s"),
        (r"t_pool(1)_subsample_bn", r"s\1_fuse.bn"),
        (r"t_res(\d)_\d+_branch2c_bn_subsample", r"s\1_fuse.conv_f2s"),
        (r"t_res(\d)_\d+_branch2c_bn_subsample_bn", r"s\1_fuse.bn"),
        (r"pred", r"head.projection"),
    )
)
_PARAMETERS = {"w": "weight", "b": "bias"}
_BN_PARAMETERS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_NO_WEIGHTS = re.compile(r".*_momentum|lr|model_iter")


def caffe2_name(blob: str) -> str | None:
    """Returns our name of a Caffe2 blob, None if it is not a parameter of these networks.

    "res2_0_branch2a_w" is "s2.pathway0_res0.branch2.a.weight".
    """
    layer, _, parameter = blob.rpartition("_")
    endings = _BN_PARAMETERS if layer.endswith("_bn") else _PARAMETERS
    for pattern, ours in _LAYERS if parameter in endings else ():
        if match := pattern.fullmatch(layer):
            pathway = "1" if layer.startswith("t_") else "0"
            return match.expand(ours).replace("#", pathway) + f".{endings[parameter]}"
    return None


def read_caffe2(path: Path) -> dict[str, Tensor]:
    """Returns the parameters of a Caffe2 pickle under our names.

    The optimizer's blobs (momentum, learning rate) are dropped; a blob without a name of ours keeps
    its own. The last layer is a matrix, also where Caffe2 has a 1x1x1 convolution.
    """
    blobs = read_blobs(path)
    if not any(map(caffe2_name, blobs)):
        raise CheckpointError(f"{path} has no blobs with the names of PySlowFast's Caffe2 models")
    state: dict[str, Tensor] = {}
    for name, blob in blobs.items():
        if not _NO_WEIGHTS.fullmatch(name):
            state[caffe2_name(name) or name] = _tensor(name, blob, path)
    check_shared(state.values(), path)
    weight = state.get("head.projection.weight")
    if weight is not None and weight.ndim > 2:
        state["head.projection.weight"] = weight.flatten(1)
    return state


def _tensor(name: str, blob: object, path: Path) -> Tensor:
    if not isinstance(blob, np.ndarray):
        raise CheckpointError(f"{path}: the blob {name} is a {type(blob).__name__}, not an array")
    return torch.from_numpy(blob)
