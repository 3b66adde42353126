"""The authors' residual networks in our models: every array has its place, and the logits."""

import math
import re
from pathlib import Path

import gluon_reference
import numpy as np
import pytest
import torch
from authors import FOLDER, authors_arrays, authors_shapes, need_lists
from mxnet_writer import write_mxnet
from torch import nn

from octvideo import create_model
from octvideo.layers import OctTensor
from octvideo.utils.complexity import count
from octvideo.weights import load_into, read_weights
from octvideo.weights.names.mxnet import octconv_state

NETWORKS = {
    "resnet-26_alpha-0.250": ("resnet26_v2", 0.25),
    "resnet-50_alpha-0.125": ("resnet50_v2", 0.125),
    "resnet-50_alpha-0.500": ("resnet50_v2", 0.5),
    "resnet-50": ("resnet50_v2", 0.0),
    "resnet-101_alpha-0.250": ("resnet101_v2", 0.25),
    "resnet-200_alpha-0.125": ("resnet200_v2", 0.125),
    "se-resnet-50_alpha-0.125": ("se_resnet50", 0.125),
    "resnext-50_32x4d_alpha-0.250": ("resnext50_32x4d", 0.25),
    "resnet152_v1f_alpha-0.125": ("resnet152_v1f", 0.125),
    "se-resnet152_v1e_alpha-0.125": ("se_resnet152_v1e", 0.125),
    "resnet50_v1b_alpha-0.5": ("resnet50_v1b", 0.5),
}


every_network = pytest.mark.parametrize(
    "network",
    [
        pytest.param(n, marks=[pytest.mark.slow] * any(map(n.count, ("-101", "-200", "152"))))
        for n in NETWORKS
    ],
)


def ours(network: str) -> nn.Module:
    name, alpha = NETWORKS[network]
    return create_model(name, octave_alpha=alpha, head_activation="none").eval()


@every_network
def test_every_array_has_its_place(network: str) -> None:
    """Each element of theirs once, each of ours filled; but for norms without scale and shift."""
    shapes = authors_shapes(network)
    arrays = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    state = octconv_state(arrays, Path(network))
    with torch.device("meta"):
        model = ours(network)
    wanted = {k: v.shape for k, v in model.state_dict().items() if "num_batches" not in k}
    assert {key: value.shape for key, value in state.items()} == wanted
    left_out = [n for n in shapes if ("bn1a" in n or "bn4a" in n) and n.endswith(("gamma", "beta"))]
    elements = sum(a.numel() for n, a in arrays.items() if n not in left_out)
    assert sum(value.numel() for value in state.values()) == elements


IMAGES = np.random.RandomState(1234).randn(2, 3, 64, 64).astype("float32")


def loaded(network: str, path: Path) -> nn.Module:
    """Our model with the made weights, from a file that has them."""
    write_mxnet(path, authors_arrays(network))
    model = ours(network)
    load_into(model, read_weights(path, "mxnet"))
    return model


def logits_of(network: str, path: Path) -> np.ndarray:
    with torch.no_grad():
        return loaded(network, path)(torch.from_numpy(IMAGES)).numpy()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "network",
    [
        "resnet-26_alpha-0.250",
        pytest.param("resnet-50_alpha-0.125", marks=pytest.mark.slow),
    ],
)
def test_logits_are_the_authors(network: str, tmp_path: Path) -> None:
    need_lists()
    logits = logits_of(network, tmp_path / "x.params")
    with np.load(FOLDER / "logits.npz") as file:
        wanted = file[network]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("network", "stride_on"),
    [("resnet50_v1b_alpha-0.5", 2), ("resnet152_v1f_alpha-0.125", 3)],
)
def test_logits_of_gluon_networks(network: str, stride_on: int, tmp_path: Path) -> None:
    """Against their arrays, one by one, in double precision."""
    logits = logits_of(network, tmp_path / "x.params")
    arrays = {name: array.double() for name, array in authors_arrays(network).items()}
    wanted = gluon_reference.run(arrays, torch.from_numpy(IMAGES).double(), stride_on).numpy()
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_blocks_with_squeeze_and_excitation(tmp_path: Path) -> None:
    """Block by block: 50 such gates with made weights enlarge any rounding to the whole result."""
    network = "se-resnet152_v1e_alpha-0.125"
    model = loaded(network, tmp_path / "x.params").double()
    arrays = {name: array.double() for name, array in authors_arrays(network).items()}
    images, count = torch.from_numpy(IMAGES).double(), 0
    with torch.no_grad():
        for (stage, i), given, wanted in gluon_reference.blocks(arrays, images, 3):
            if (stage, i) == (1, 0):
                torch.testing.assert_close(model.s1(images), given["h"])
            block = model.get_submodule(f"s{stage + 1}.pathway0_res{i}")
            got = block(OctTensor(given["h"], given["l"]) if "l" in given else given["h"])
            assert isinstance(got, OctTensor) == ("l" in wanted)
            parts = got if isinstance(got, OctTensor) else (got,)
            for part, f in zip(parts, "hl", strict=False):
                scale = wanted[f].abs().max().item()
                torch.testing.assert_close(part, wanted[f], rtol=1e-4, atol=1e-6 * scale)
            count += 1
    assert count == 3 + 8 + 36 + 3


# Sides of the maps of v1f's stem, at 224 x 224, that are not 112.
LIGHT_STEM = {"conv1.0": 224, "conv2.conv2": 56, "conv2.conv3": 56, "conv2.conv4": 56}


def positions(name: str, stride_on: int, stem: dict[str, int]) -> int:
    """Outputs of a kernel at 224 x 224, before it is upsampled, by the authors' name of it."""
    if "class" in name or "_se_" in name or ".se_block." in name:
        return 1
    match = re.search(r"L(\d)_B(\d+)[._]conv(\d)[._]conv(?:[-_](\w)2(\w))?", name)
    if match is None:  # the stem
        return stem.get(name.removesuffix(".weight"), 112) ** 2
    stage, block, conv = map(int, match.groups()[:3])
    if "." in name:  # gluon: stages from 1, blocks from 0
        stage, block = stage + 1, block + 1
    side = {2: 56, 3: 28, 4: 14, 5: 7}[stage]
    is_first = block == 1 and stage > 2
    before = is_first and conv < (stride_on if conv < 4 else 0)
    has_stride = is_first and conv in (stride_on, 4)
    if before:
        side *= 2
    is_low = match[5] == "l" or (match[4] == "l" and not has_stride)
    return (side // 2 if is_low else side) ** 2


@pytest.mark.timeout(120)
@every_network
def test_multiply_adds_follow_from_the_authors_shapes(network: str) -> None:
    stride_on, stem = 3 if "152" in network else 2, LIGHT_STEM if "v1f" in network else {}
    macs = sum(
        math.prod(shape) * positions(name.removeprefix("arg:"), stride_on, stem)
        for name, shape in authors_shapes(network).items()
        if len(shape) > 1
    )
    with torch.device("meta"):
        model = ours(network)
    assert count(model, (1, 3, 224, 224)).macs == macs
