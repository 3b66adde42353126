"""From a file of the authors to the same logits.

The networks that they are compared with are written in mxnet_reference.py, path by path; what
MXNet itself computed for two ResNets vouches for the operators there.
"""

import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from authors import FOLDER, authors_arrays, authors_shapes, need_lists
from mxnet_reference import reference_logits
from mxnet_writer import write_mxnet
from test_mxnet_resnets import NETWORKS as RESNETS

from octvideo import create_model
from octvideo.api.loading import load, load_trained
from octvideo.models import named_spec
from octvideo.utils.complexity import count
from octvideo.weights import Weights, load_into, read_weights
from octvideo.weights.names.mxnet import octconv_low_channels, octconv_state
from octvideo.weights.trained import alpha_of, name_of_layers
from support import ROOT, load_tool

#   the authors' network: our name, alpha
NETWORKS = {
    "densenet-121_alpha-0.125": ("densenet121", 0.125),
    "densenet-121_alpha-0.250": ("densenet121", 0.25),
    "mobilenet_v1_075_alpha-0.375": ("mobilenet_v1_075", 0.375),
    "mobilenet_v1_100_alpha-0.5": ("mobilenet_v1_100", 0.5),
    "mobilenet_v2_100_alpha-0.375": ("mobilenet_v2_100", 0.375),
    "mobilenet_v2_1125_alpha-0.5": ("mobilenet_v2_1125", 0.5),
}


def images(side: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(1234).randn(2, 3, side, side).astype("float32"))


def assert_close(actual: torch.Tensor, wanted: torch.Tensor, relative: float = 1e-5) -> None:
    assert (actual - wanted).abs().max() <= relative * wanted.abs().max()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("network", ["resnet-26_alpha-0.250", "resnet-50_alpha-0.125"])
def test_the_reference_computes_what_mxnet_computed(network):
    need_lists()
    logits = reference_logits(network, authors_arrays(network), images())
    assert_close(logits, torch.from_numpy(np.load(FOLDER / "logits.npz")[network]))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "network",
    [
        pytest.param(network, marks=[pytest.mark.slow] * (alpha in (0.25, 0.5)))
        for network, (_, alpha) in NETWORKS.items()
    ],
)
def test_the_logits_of_the_authors_network(network, tmp_path):
    name, alpha = NETWORKS[network]
    arrays, path = authors_arrays(network), tmp_path / f"{network}-0000.params"
    write_mxnet(path, arrays)
    model = create_model(name, octave_alpha=alpha, head_activation="none").eval()
    report = load_into(model, read_weights(path))
    assert (report.loaded, report.left_out) == (len(model.state_dict()), ())
    with torch.no_grad():
        assert_close(model(images()), reference_logits(network, arrays, images()))
        assert_close(model(images(96)), reference_logits(network, arrays, images(96)))


# A quick network has the same blocks.
LARGE = re.compile(r".*(101|152|200)|resnet-50_|.*alpha-0.5")
RESNETS_OF_THEM = [
    pytest.param(network, marks=[pytest.mark.slow] * (LARGE.match(network) is not None))
    for network in RESNETS
    if network != "resnet-50"  # the vanilla one, whose convolutions have strides
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("network", RESNETS_OF_THEM)
def test_the_logits_of_the_authors_resnets(network):
    """In float64: with these weights float32 says nothing of 152 layers with squeezes.

    There, the logits of the reference itself are a third off in float32. Its input batch norms
    have a shift that is added to the mean when a file is read, in the file's float32: read as
    float64, all is exact.
    """
    name, alpha = RESNETS[network]
    arrays = {name: array.double() for name, array in authors_arrays(network).items()}
    model = create_model(name, octave_alpha=alpha, head_activation="none").double().eval()
    counters = {k: v for k, v in model.state_dict().items() if "num_batches" in k}
    model.load_state_dict({**octconv_state(arrays, Path(network)), **counters})
    x = images().double()
    with torch.no_grad():
        assert_close(model(x), reference_logits(network, arrays, x), 1e-7)


# Multiply-adds at 224 and parameters of 1000 classes. The paper's, in millions: 213 / 2.6,
# 321 / 4.2, 256 / 3.5, 295 / 4.2 for the octave MobileNets, with their pooling counted.
COSTS = {
    ("densenet121", 0.0): (2_834_161_664, 7_978_856),
    ("densenet121", 0.125): (2_398_420_736, 7_978_856),
    ("densenet121", 0.25): (2_017_246_208, 7_978_856),
    ("mobilenet_v1_075", 0.0): (325_400_448, 2_585_560),
    ("mobilenet_v1_075", 0.375): (211_379_016, 2_585_560),
    ("mobilenet_v1_100", 0.0): (568_740_352, 4_231_976),
    ("mobilenet_v1_100", 0.5): (318_167_680, 4_231_976),
    ("mobilenet_v2_100", 0.0): (313_619_328, 3_505_960),
    ("mobilenet_v2_100", 0.375): (254_031_408, 3_505_960),
    ("mobilenet_v2_1125", 0.0): (392_307_120, 4_243_006),
    ("mobilenet_v2_1125", 0.5): (292_764_600, 4_243_006),
}
QUICK_COSTS = (("densenet121", 0.0), ("mobilenet_v1_100", 0.5), ("mobilenet_v2_100", 0.375))


@pytest.mark.parametrize(
    ("name", "alpha"),
    [pytest.param(*key, marks=[pytest.mark.slow] * (key not in QUICK_COSTS)) for key in COSTS],
    ids=str,
)
def test_costs(name, alpha):
    with torch.device("meta"):
        model = create_model(name, octave_alpha=alpha)
    cost = count(model, (1, 3, 224, 224))
    assert (cost.macs, cost.params) == COSTS[name, alpha]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_tool(tmp_path, monkeypatch, capsys):
    """A .tar as it is released, converted, into a model of a configuration."""
    network = "mobilenet_v1_075_alpha-0.375"
    write_mxnet(tmp_path / "checkpoint-0-0000.params", authors_arrays(network))
    with tarfile.open(tmp_path / "net.tar", "w:") as archive:
        archive.add(tmp_path / "checkpoint-0-0000.params", "a/checkpoint-0-0000.params")
    (tmp_path / "net.yaml").write_text(
        "MODEL: {ARCH: 2d, MODEL_NAME: mobilenet_v1_075, NUM_CLASSES: 1000, DROPOUT_RATE: 0.0}\n"
        "DATA: {NUM_FRAMES: 1}\nOCTAVE: {ENABLE: True, ALPHA: 0.375, STAGES: [2, 3, 4]}\n"
    )
    monkeypatch.chdir(tmp_path)
    tool = load_tool("convert_checkpoint")
    assert tool.main(["net.tar", "net.pyth", "--from", "mxnet", "--cfg", "net.yaml"]) == 0
    assert "(mxnet): 164 entries loaded, none left out" in capsys.readouterr().out
    content = torch.load(tmp_path / "net.pyth", weights_only=True)
    assert content["source"]["kind"] == "mxnet"
    assert content["low_channels"]["s2.block0.bn1.running_mean"] == 18  # int(0.375 * 48)
    model = create_model("mobilenet_v1_075", octave_alpha=0.375, head_activation="none").eval()
    load_into(model, read_weights(tmp_path / "net.pyth", "octvideo"))
    with torch.no_grad():
        wanted = reference_logits(network, authors_arrays(network), images())
        assert_close(model(images()), wanted)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_tool_tells_the_network_and_its_file_knows_it(tmp_path, monkeypatch, capsys, caplog):
    network = "resnet-26_alpha-0.250"
    write_mxnet(tmp_path / "a.params", authors_arrays(network))
    monkeypatch.chdir(tmp_path)
    tool = load_tool("convert_checkpoint")
    assert tool.main(["a.params", "a.pyth"]) == 0
    out = capsys.readouterr().out
    assert "network resnet26_v2, alpha 0.25\n" in out
    assert "create_model('resnet26_v2', pretrained='./a.pyth')" in out
    [config] = [line.strip() for line in out.splitlines() if line.strip().startswith("configs/")]
    assert config == "configs/ImageNet/OCT_RESNET26_A0.25.yaml"
    by_cfg = load_trained(ROOT / config, "a.pyth", ["MODEL.HEAD_ACT", "none"]).eval()
    wanted = torch.from_numpy(np.load(FOLDER / "logits.npz")[network])
    for file in ("./a.params", "./a.pyth"):
        model = create_model("resnet26_v2", pretrained=file, head_activation="none").eval()
        with torch.no_grad():
            assert_close(model(images()), wanted, 1e-4)
    with torch.no_grad():
        assert_close(by_cfg(images()), wanted, 1e-4)
    assert "another network" not in caplog.text
    known = load("a.pyth")
    assert known.spec == replace(by_cfg.spec, head_activation="softmax")
    assert known.protocol == create_model("resnet26_v2", pretrained="./a.pyth").protocol
    create_model("resnet26_v2", octave_alpha=0.0, pretrained="./a.pyth")  # the converted one, too
    assert "another network: octave_alpha was 0.25, is 0.0. " in caplog.text


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "network",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n != "mobilenet_v1_075_alpha-0.375"))
        for n in {**RESNETS, **NETWORKS}
    ],
)
def test_a_file_is_recognised(network):
    arrays = {n: torch.zeros(s) for n, s in authors_shapes(network).items()}
    state, lows = octconv_state(arrays, Path("x")), octconv_low_channels(arrays)
    weights = Weights(Path("x"), "mxnet", state, low_channels=lows)
    counters = {k.replace("running_var", "num_batches_tracked") for k in state if "_var" in k}
    weights.state |= dict.fromkeys(counters, torch.tensor(0))
    name, alpha = {**RESNETS, **NETWORKS}[network]
    assert (name_of_layers(weights), alpha_of(weights, named_spec(name))) == (name, alpha)
