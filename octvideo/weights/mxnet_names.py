"""The names in the paper authors' MXNet checkpoints (facebookresearch/OctConv), to ours.

Their octave layers keep an array for each path between the frequencies (h2h, h2l, l2h, l2l) and
for each frequency (h, l); ours have one, whose channels are ordered [L | H]. Two notations:

    symbol  arg:L3_B01_conv2_conv-h2l_weight   aux:L3_B01_conv2_bn-l_moving_var
    gluon   L3_B0.conv2.conv_h2l.weight        L3_B0.bn2.bn_l.running_var

What is not octave has no path in its name. The files do not say which network they are of, so
the names of all layers tell the family.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from octvideo.weights.files import CheckpointError
from octvideo.weights.mxnet import read_mxnet

_PATH = "h2h|h2l|l2h|l2l|h|l"
_NOTATIONS = (
    re.compile(rf"(.+?)(?:-({_PATH}))?_(weight|bias|gamma|beta|moving_mean|moving_var)"),
    re.compile(
        rf"(.+?)(?:(?:\.conv|\.bn|)_({_PATH}))?\.(weight|bias|gamma|beta|running_mean|running_var)"
    ),
)
_PARAMETERS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}


def read_octconv(path: Path) -> dict[str, Tensor]:
    """The parameters of a checkpoint of the authors, under our names.

    Raises:
        CheckpointError: as ``read_mxnet``, or the arrays are not those of octave layers.
    """
    layers = join_frequencies(read_mxnet(path), path)
    names = octconv_names(layers)
    state = {names[key]: value for key, value in layers.items()}
    if len(state) < len(layers):
        raise CheckpointError(f"{path}: two of its layers have the same name of ours")
    for key in ("head.projection.weight",):  # gluon has a 1x1 convolution
        if key in state and state[key].ndim == 4:
            state[key] = state[key].flatten(1)
    return state


# ---------------------------------------------------------------- four arrays into one


def join_frequencies(arrays: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Arrays under MXNet's names -> one tensor for each parameter, channels [L | H].

    Keys are "LAYER.PARAMETER": the authors' name of the layer without its path, and torch's name
    of the parameter, for example "L3_B01_conv2_conv.weight", "L3_B0.bn2.running_var". ``path`` is
    of the file, for messages.

    Raises:
        CheckpointError: a name that is no parameter's, or paths that do not make one weight.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        bare = re.sub("^(arg|aux):", "", name)
        match = next(filter(None, (pattern.fullmatch(bare) for pattern in _NOTATIONS)), None)
        if match is None:
            raise CheckpointError(f"{path}: {name} is no name of a parameter as MXNet has it")
        layer, way, parameter = match.groups()
        key = f"{layer}.{_PARAMETERS.get(parameter, parameter)}"
        if parts.setdefault(key, {}).setdefault(way or "", array) is not array:
            raise CheckpointError(f"{path} has {name} twice")
    try:
        return {key: _join(ways) for key, ways in parts.items()}
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the arrays of an octave layer do not fit together: {error}"
        ) from error


def _join(ways: Mapping[str, Tensor]) -> Tensor:
    """The arrays of one parameter, by path: "" alone, frequencies, or paths."""
    if "" in ways:
        (array,) = ways.values() if len(ways) == 1 else [ways["both with and without a path"]]
        return array
    is_kernel = next(iter(ways.values())).ndim > 1 and not ways.keys() <= {"h", "l"}
    if not is_kernel:  # a bias is on one of the paths to its frequency
        by_output = {way[-1]: array for way, array in ways.items()}
        if len(by_output) < len(ways):
            raise KeyError("one frequency has two biases")
        return torch.cat([by_output[f] for f in "lh" if f in by_output])
    rows = [
        torch.cat([ways[way] for way in (f"l2{f}", f"h2{f}") if way in ways], dim=1)
        for f in "lh"
        if any(way.endswith(f"2{f}") for way in ways)
    ]
    is_depthwise = all(way.shape[1] == 1 for way in ways.values())
    if ways.keys() == {"h2h", "l2l"} and not is_depthwise:
        raise KeyError("the paths between the frequencies are missing")
    return torch.cat(rows)


# ---------------------------------------------------------------- names


def octconv_names(keys: Iterable[str]) -> dict[str, str]:
    """Keys of ``join_frequencies`` -> ours; all of a network are needed, unknown ones stay."""
    keys = list(keys)
    table = next((table for belongs, table in _FAMILIES if belongs(set(keys))), ())
    return {key: _name(key, table) for key in keys}


Table = tuple[tuple[re.Pattern[str], str], ...]


def _table(*rows: tuple[str, str]) -> Table:
    """Rows of (pattern of the authors' layer, our layer); in ours, {n} is "n-th, from 1" from 0."""
    return tuple((re.compile(pattern), ours) for pattern, ours in rows)


def _name(key: str, table: Table) -> str:
    layer, _, parameter = key.rpartition(".")
    for pattern, ours in table:
        if match := pattern.fullmatch(layer):
            number = int(match.groupdict().get("n") or 1) - 1
            return f"{match.expand(ours).replace('{n}', str(number))}.{parameter}"
    return key


_DENSENET = _table(
    (r"conv1_(conv|bn)", r"stem.\1"),
    (r"L(\d)_Trans_conv_(conv|bn)", r"s\1.transition.\2"),
    (r"L(\d)_B(?P<n>\d+)_conv([12])_(conv|bn)", r"s\1.block{n}.\4\3"),
    (r"tail_bn", r"tail.bn"),
    (r"classifier", r"head.projection"),
)
_MOBILENET = _table(
    (r"conv1\.0", r"stem.conv"),
    (r"conv1\.1", r"stem.bn"),
    (r"L1_B(?P<n>\d+)\.(conv|bn)([123])", r"s1.block{n}.\2\3"),
    (r"L(\d)_B(\d+)\.(conv|bn)([123])", r"s\1.block\2.\3\4"),
    (r"tail\.0", r"tail.conv"),
    (r"tail\.1", r"tail.bn"),
    (r"classifer", r"head.projection"),
)
# The first whose test is passed by the set of keys.
_FAMILIES: tuple[tuple[Callable[[set[str]], bool], Table], ...] = (
    (lambda keys: "L3_Trans_conv_bn.weight" in keys, _DENSENET),
    (lambda keys: "L1_B1.conv2.weight" in keys and "L1_B0.conv2.weight" not in keys, _MOBILENET),
)
