"""Maps names in the paper authors' MXNet checkpoints (facebookresearch/OctConv) to ours.

Their octave layers keep an array for each path between the frequencies (h2h, h2l, l2h, l2l) and
for each frequency (h, l); ours have one, whose channels are ordered [L | H]. Two notations:

    symbol  arg:L3_B01_conv2_conv-h2l_weight   aux:L3_B01_conv2_bn-l_moving_var
    gluon   L3_B0.conv2.conv_h2l.weight        L3_B0.bn2.bn_l.running_var

Vanilla layers have no path in their names. The files do not say which network they hold, so the
names of all layers decide the family.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from octvideo.weights.formats.files import CheckpointError
from octvideo.weights.formats.mxnet import read_mxnet

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


class _Misfit(Exception):  # noqa: N818 - becomes a CheckpointError
    """Arrays that do not make a layer; the text says why."""


def read_octconv(path: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Returns the parameters of one of the authors' checkpoints, and its low channels.

    The second maps the running mean of each octave batch norm to its number of low channels: the
    parameters alone do not reveal the alpha of their network.

    Raises:
        CheckpointError: as ``read_mxnet``, or the arrays are not those of octave layers.
    """
    arrays = read_mxnet(path)
    return octconv_state(arrays, path), octconv_low_channels(arrays)


def octconv_low_channels(arrays: Mapping[str, Tensor]) -> dict[str, int]:
    """Returns the low channels of arrays under MXNet's names, by our name of a running mean."""
    parsed = [(_parse(name), len(array)) for name, array in arrays.items() if array.ndim]
    lows = {key: n for (key, way), n in parsed if way == "l" and key.endswith(".running_mean")}
    names = octconv_names(key for (key, _), _ in parsed)
    return {names[key]: count for key, count in lows.items()}


def octconv_state(arrays: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Turns arrays under MXNet's names into parameters under our names.

    Raises:
        CheckpointError: the arrays are not those of octave layers; ``path`` is their file.
    """
    layers = join_frequencies(_low_means_first(arrays), path)
    names = octconv_names(layers)
    state = {names[key]: value for key, value in layers.items()}
    if len(state) < len(layers):
        raise CheckpointError(f"{path}: two of its layers have the same name of ours")
    for key, value in state.items():
        if _IS_LINEAR.search(key) and value.ndim == 4:  # gluon has 1x1 convolutions
            state[key] = value.flatten(1)
    return _without_scale_and_shift(state)


# ---------------------------------------------------------------- what gluon does differently

_IS_LINEAR = re.compile(r"(^head\.projection|\.se\.fc[12])\.weight$")
_GLUON_EPS = 1e-5


def _low_means_first(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reorders the columns of gluon's squeeze, which takes the means as [H | L], to [L | H]."""
    result = dict(arrays)
    for name, array in arrays.items():
        high = arrays.get(name.replace("se_block.conv1.", "se_block.conv2_h."))
        if name.endswith("se_block.conv1.weight") and high is not None and array.ndim > 1:
            result[name] = torch.cat([array[:, len(high) :], array[:, : len(high)]], dim=1)
    return result


def _without_scale_and_shift(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes scale and shift from the batch norms that have none in gluon's networks.

    Gluon uses a scale of 1 whatever the file has, but adds the shift (0 in a trained file). Here
    the shift goes into the mean.
    """
    result = dict(state)
    for key in [key for key in state if key.endswith("input_bn.running_mean")]:
        norm = key.removesuffix("running_mean")
        result.pop(f"{norm}weight", None)
        shift, var = result.pop(f"{norm}bias", None), state.get(f"{norm}running_var")
        if shift is not None and var is not None and shift.shape == var.shape == state[key].shape:
            result[key] = state[key] - shift * (var + _GLUON_EPS).sqrt()
    return result


# ---------------------------------------------------------------- four arrays into one


def join_frequencies(arrays: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Joins arrays under MXNet's names into one tensor per parameter, channels [L | H].

    Keys are "LAYER.PARAMETER": the authors' name of the layer without its path, and torch's name
    of the parameter, for example "L3_B01_conv2_conv.weight", "L3_B0.bn2.running_var". ``path`` is
    the file, for messages.

    Raises:
        CheckpointError: a name is not a parameter's, or the paths do not make one weight.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        for name, array in arrays.items():
            key, way = _parse(name)
            if parts.setdefault(key, {}).setdefault(way, array) is not array:
                raise _Misfit(f"{name} is there twice")
        return {key: _join(key, ways) for key, ways in parts.items()}
    except _Misfit as error:
        raise CheckpointError(f"{path}: {error}") from error


def _parse(name: str) -> tuple[str, str]:
    """Returns the key of an array's parameter, and the array's path ("" where it is all of it)."""
    bare = re.sub("^(arg|aux):", "", name)
    match = next(filter(None, (pattern.fullmatch(bare) for pattern in _NOTATIONS)), None)
    if match is None:
        raise _Misfit(f"{name} is not the name of an MXNet parameter")
    layer, way, parameter = match.groups()
    return f"{layer}.{_PARAMETERS.get(parameter, parameter)}", way or ""


def _join(key: str, ways: Mapping[str, Tensor]) -> Tensor:
    """Joins the arrays of one parameter; keys are "" alone, frequencies, or paths."""
    if "" in ways:
        if len(ways) > 1:
            raise _Misfit(f"{key} is there with and without a path between the frequencies")
        return ways[""]
    if len({array.ndim for array in ways.values()}) > 1 or not next(iter(ways.values())).ndim:
        raise _Misfit(f"the arrays of {key} do not fit together: {_shapes(ways)}")
    try:
        if next(iter(ways.values())).ndim > 1 and not ways.keys() <= {"h", "l"}:
            return _join_kernels(key, ways)
        by_output = {way[-1]: array for way, array in ways.items()}
        if len(by_output) < len(ways):  # a bias is on one of the paths to its frequency
            raise _Misfit(f"{key} has two arrays for one frequency: {', '.join(ways)}")
        return torch.cat([by_output[f] for f in "lh" if f in by_output])
    except RuntimeError as error:  # sizes
        raise _Misfit(f"the arrays of {key} do not fit together: {_shapes(ways)}") from error


def _join_kernels(key: str, ways: Mapping[str, Tensor]) -> Tensor:
    is_depthwise = all(array.shape[1] == 1 for array in ways.values())
    if ways.keys() == {"h2h", "l2l"} and not is_depthwise:
        raise _Misfit(f"the paths between the frequencies of {key} are missing")
    rows = [[ways[way] for way in (f"l2{f}", f"h2{f}") if way in ways] for f in "lh"]
    return torch.cat([torch.cat(row, dim=1) for row in rows if row])


def _shapes(ways: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{way} {tuple(array.shape)}" for way, array in ways.items())


# ---------------------------------------------------------------- names


def octconv_names(keys: Iterable[str]) -> dict[str, str]:
    """Maps keys of ``join_frequencies`` to ours; needs a network's whole set, unknown ones stay."""
    keys = list(keys)
    table = next((table for belongs, table in _FAMILIES if belongs(set(keys))), ())
    return {key: _name(key, table) for key in keys}


Table = tuple[tuple[re.Pattern[str], str], ...]


def _table(*rows: tuple[str, str]) -> Table:
    """Compiles rows (authors' layer, our layer); {n} is the group n, counted from 0, not 1."""
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
_BRANCH = (("1", "branch2.a"), ("2", "branch2.b"), ("3", "branch2.c"), ("4", "branch1"))
_RESNET_SYMBOL = _table(
    (r"conv1_(conv|bn)", r"s1.pathway0_stem.\1"),
    *(
        (rf"L(\d)_B(?P<n>\d+)_conv{number}_{theirs}", rf"s\1.pathway0_res{{n}}.{ours}{suffix}")
        for number, ours in _BRANCH
        for theirs, suffix in (("conv", ""), ("bn", "_bn"))
    ),
    (r"L(\d)_B(?P<n>\d+)_se_fc([12])", r"s\1.pathway0_res{n}.branch2.se.fc\3"),
    (r"tail_bn", r"tail.bn"),
    (r"classifier", r"head.projection"),
)
_RESNET_GLUON_BLOCKS = (
    *(
        row
        for i in (1, 2, 3, 4)
        for number, ours in _BRANCH
        for row in (
            (rf"L{i}_B(\d+)\.conv{number}", rf"s{i + 1}.pathway0_res\1.{ours}"),
            (rf"L{i}_B(\d+)\.bn{number}", rf"s{i + 1}.pathway0_res\1.{ours}_bn"),
        )
    ),
    *(
        row
        for i in (1, 2, 3, 4)
        for row in (
            (rf"L{i}_B(\d+)\.bn1a", rf"s{i + 1}.pathway0_res\1.branch2.input_bn"),
            (rf"L{i}_B(\d+)\.bn4a", rf"s{i + 1}.pathway0_res\1.branch1_input_bn"),
            (rf"L{i}_B(\d+)\.se_block\.conv([12])", rf"s{i + 1}.pathway0_res\1.branch2.se.fc\2"),
        )
    ),
    (r"classifer", r"head.projection"),
)
_RESNET_GLUON = _table(
    (r"conv1\.0", r"s1.pathway0_stem.conv"),
    (r"conv1\.1", r"s1.pathway0_stem.bn"),
    *_RESNET_GLUON_BLOCKS,
)
_RESNET_GLUON_DEEP = _table(  # a stem of three convolutions, with a residual block or without
    *((rf"conv1\.{i}", rf"s1.pathway0_stem.{ours}") for i, ours in ((0, "a"), (3, "b"), (6, "c"))),
    *(
        (rf"conv1\.{i}", rf"s1.pathway0_stem.{ours}_bn")
        for i, ours in ((1, "a"), (4, "b"), (7, "c"))
    ),
    *((rf"conv2\.conv{number}", rf"s1.pathway0_stem.pool.{ours}") for number, ours in _BRANCH),
    *((rf"conv2\.bn{number}", rf"s1.pathway0_stem.pool.{ours}_bn") for number, ours in _BRANCH),
    *_RESNET_GLUON_BLOCKS,
)
# The first whose test is passed by the set of keys.
_FAMILIES: tuple[tuple[Callable[[set[str]], bool], Table], ...] = (
    (lambda keys: "L3_Trans_conv_bn.weight" in keys, _DENSENET),
    (lambda keys: "L1_B1.conv2.weight" in keys and "L1_B0.conv2.weight" not in keys, _MOBILENET),
    (lambda keys: "L5_B01_conv4_conv.weight" in keys, _RESNET_SYMBOL),
    (lambda keys: {"L4_B0.conv4.weight", "conv1.6.weight"} <= keys, _RESNET_GLUON_DEEP),
    (lambda keys: "L4_B0.conv4.weight" in keys, _RESNET_GLUON),
)
