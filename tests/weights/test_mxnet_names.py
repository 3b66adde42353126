"""The authors' arrays joined to the weights of octave layers, and their names."""

import numpy as np
import pytest
import torch
from authors import authors_arrays, authors_shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet_writer import write_mxnet

from octvideo import create_model
from octvideo.layers import OctBatchNorm2d, OctConv2d
from octvideo.weights import CheckpointError, load_into, read_weights
from octvideo.weights.names.mxnet import join_frequencies, octconv_names

NAMES = {
    "symbol": ("arg:L3_B01_conv1_conv-{}_weight", "{}:L3_B01_conv1_bn-{}_{}", "moving"),
    "gluon": ("L3_B0.conv1.conv_{}.weight", "L3_B0.bn1.bn_{}.{}", "running"),
}


def random(*shape):
    return torch.from_numpy(np.random.RandomState(0).randn(*shape).astype("float32"))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("c_in", "c_out"), [((6, 2), (10, 4)), ((6, 0), (10, 4)), ((6, 2), (10, 0))]
)
def test_kernels_come_to_their_paths(c_in, c_out, groups):
    """The slices that our layer takes are the arrays that the authors' layer has."""
    counts = {"h": 0, "l": 1}
    kernels = {
        f"{a}2{b}": random(c_out[counts[b]], c_in[counts[a]] // groups, 3, 3)
        for a in "hl"
        for b in "hl"
        if c_in[counts[a]] and c_out[counts[b]]
    }
    layer = OctConv2d(c_in, c_out, 3, padding=1, groups=groups, bias=False)
    for name in ("arg:x_conv-{}_weight", "x.conv1.conv_{}.weight"):
        arrays = {name.format(way): kernel for way, kernel in kernels.items()}
        ((_, weight),) = join_frequencies(arrays, "x").items()
        layer.load_state_dict({"weight": weight})
        ours = layer.kernels()
        assert ours.keys() == kernels.keys()
        for way, kernel in kernels.items():
            assert torch.equal(ours[way], kernel), way


def test_depthwise_kernels():
    kernels = {"h2h": random(5, 1, 3, 3), "l2l": random(3, 1, 3, 3)}
    arrays = {f"x.conv2.conv_{way}.weight": kernel for way, kernel in kernels.items()}
    layer = OctConv2d((5, 3), (5, 3), 3, padding=1, groups=8, bias=False)
    layer.load_state_dict({"weight": join_frequencies(arrays, "x")["x.conv2.weight"]})
    for way, kernel in layer.kernels().items():
        assert torch.equal(kernel, kernels[way])


@pytest.mark.parametrize("notation", NAMES)
def test_statistics_of_both_frequencies(notation):
    _, name, word = NAMES[notation]
    state = {}
    for f, count in (("h", 5), ("l", 3)):
        for part, parameter in (("arg", "gamma"), ("arg", "beta"), ("aux", f"{word}_mean"),
                                ("aux", f"{word}_var")):  # fmt: skip
            full = name.format(part, f, parameter) if notation == "symbol" else name.format(
                f, parameter)  # fmt: skip
            state[full] = torch.full((count,), float(len(state)))
    joined = join_frequencies(state, "x")
    bn = OctBatchNorm2d((5, 3))
    bn.load_state_dict(
        {key.rpartition(".")[2]: value for key, value in joined.items()}, strict=False
    )
    assert bn.weight.tolist() == [4] * 3 + [0] * 5
    assert bn.running_var.tolist() == [7] * 3 + [3] * 5


def test_fully_connected_layers_of_a_squeeze_and_excitation():
    arrays = {
        "arg:b_se_fc1-h2h_weight": torch.full((4, 6), 1.0),
        "arg:b_se_fc1-l2h_weight": torch.full((4, 2), 2.0),
        "arg:b_se_fc1-h2h_bias": torch.full((4,), 3.0),
        "arg:b_se_fc2-h2h_weight": torch.full((6, 4), 4.0),
        "arg:b_se_fc2-h2l_weight": torch.full((2, 4), 5.0),
        "arg:b_se_fc2-h2h_bias": torch.full((6,), 6.0),
        "arg:b_se_fc2-h2l_bias": torch.full((2,), 7.0),
    }
    joined = join_frequencies(arrays, "x")
    assert joined["b_se_fc1.weight"][0].tolist() == [2] * 2 + [1] * 6
    assert joined["b_se_fc2.weight"][:, 0].tolist() == [5] * 2 + [4] * 6
    assert joined["b_se_fc1.bias"].tolist() == [3] * 4
    assert joined["b_se_fc2.bias"].tolist() == [7] * 2 + [6] * 6


PLAIN, HIGH = torch.zeros(4, 4, 1, 1), torch.zeros(3, 3, 1, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arg:data": PLAIN}, "arg:data is not the name of an MXNet parameter"),
        (
            {"x-h2h_weight": HIGH, "x-l2l_weight": HIGH},
            "between the frequencies of x.weight are missing",
        ),
        ({"x-h2h_weight": HIGH, "x-h2l_weight": PLAIN}, "do not fit together"),
        ({"x-h2h_weight": HIGH, "x_weight": PLAIN}, "with and without"),
        ({"arg:x_weight": PLAIN, "aux:x_weight": HIGH}, "aux:x_weight is there twice"),
        (
            {"x-h2h_bias": torch.zeros(3), "x-l2h_bias": torch.zeros(3)},
            "two arrays for one frequency: h2h, l2h",
        ),
    ],
)
def test_arrays_that_make_no_layer(tmp_path, arrays, message):
    path = tmp_path / "x.params"
    write_mxnet(path, arrays)
    with pytest.raises(CheckpointError, match=rf"x\.params.*{message}"):
        read_weights(path)


NETWORKS = [
    "densenet-121_alpha-0.125",
    "densenet-121_alpha-0.250",
    "mobilenet_v1_075_alpha-0.375",
    "mobilenet_v1_100_alpha-0.5",
    "mobilenet_v2_100_alpha-0.375",
    "mobilenet_v2_1125_alpha-0.5",
]


@pytest.mark.parametrize("network", NETWORKS)
def test_every_array_has_a_name_of_ours(network):
    arrays = {n: torch.empty(s, device="meta") for n, s in authors_shapes(network).items()}
    layers = join_frequencies(arrays, network)
    names = octconv_names(layers)
    assert all(key != name for key, name in names.items())
    assert len(set(names.values())) == len(layers)
    elements = sum(a.numel() for a in arrays.values())
    assert sum(a.numel() for a in layers.values()) == elements


def test_kinds(tmp_path):
    write_mxnet(tmp_path / "x.params", {"arg:fc_weight": PLAIN, "aux:bn_moving_var": HIGH[0]})
    for kind in ("auto", "mxnet"):
        weights = read_weights(tmp_path / "x.params", kind)
        assert weights.kind == "mxnet"
        assert "bn.num_batches_tracked" in weights.state
    for kind in ("pytorch", "caffe2", "octvideo"):
        with pytest.raises(CheckpointError, match=f"kind mxnet, not {kind}"):
            read_weights(tmp_path / "x.params", kind)
    torch.save({"a": PLAIN}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"kind pytorch, not mxnet"):
        read_weights(tmp_path / "x.pth", "mxnet")


WAYS = ["", "h2h", "h2l", "l2h", "l2l", "h", "l"]
NAMED = [f"arg:x_conv-{way}_weight".replace("-_", "_") for way in WAYS]
NAMED += [f"L2_B0.{layer}.weight" for layer in ("conv1.conv_h2h", "conv1.conv_l2l", "conv1")]
NAMED += [f"L2_B0.se_block.{x}.{y}" for x in ("conv1", "conv2_h", "conv2_l")
          for y in ("weight", "bias")]  # fmt: skip
NAMED += [f"L4_B0.bn1a.bn_{f}.{x}" for f in "hl" for x in ("gamma", "beta", "running_mean",
          "running_var")]  # fmt: skip
NAMED += ["L4_B0.conv4.conv_h2h.weight", "classifer.weight"]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMED), st.lists(st.integers(1, 3), min_size=1, max_size=4)))
@pytest.mark.timeout(60)
def test_any_shapes_make_parameters_or_a_clear_error(tmp_path_factory, shapes):
    path = tmp_path_factory.getbasetemp() / "odd.params"
    write_mxnet(path, {name: torch.zeros(shape) for name, shape in shapes.items()})
    try:
        weights = read_weights(path)
    except CheckpointError:
        return
    assert all(isinstance(value, torch.Tensor) for value in weights.state.values())


def test_half_precision_and_another_alpha(tmp_path, caplog):
    """A float16 file loads into float32; of another alpha, it is told."""
    network, path = "mobilenet_v1_075_alpha-0.375", tmp_path / "half-0000.params"
    arrays = authors_arrays(network)
    write_mxnet(path, {name: array.half() for name, array in arrays.items()})
    model = create_model("mobilenet_v1_075", octave_alpha=0.375)
    load_into(model, read_weights(path))
    assert not caplog.records
    kernel = arrays["L2_B1.conv2.conv_h2l.weight"]
    ours = model.s2.block1.conv2.kernels()["h2l"]
    assert ours.dtype == torch.float32
    assert torch.equal(ours, kernel.half().float())
    for alpha, told in ((0.5, "ALPHA was 0.375, is 0.5"), (0.0, "ENABLE was True, is False")):
        caplog.clear()
        load_into(create_model("mobilenet_v1_075", octave_alpha=alpha), read_weights(path))
        assert f"{path} was trained as another network: OCTAVE.{told}. " in caplog.text
