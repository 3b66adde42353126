"""The authors' residual networks in our models: every array has its place, and the logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from authors import FOLDER, authors_arrays, authors_shapes, need_lists
from torch import nn

from octvideo import create_model
from octvideo.weights.mxnet_names import octconv_state

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


def ours(network: str) -> nn.Module:
    name, alpha = NETWORKS[network]
    return create_model(name, octave_alpha=alpha, head_activation="none").eval()


@pytest.mark.parametrize("network", NETWORKS)
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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("network", ["resnet-26_alpha-0.250", "resnet-50_alpha-0.125"])
def test_logits_are_the_authors(network: str) -> None:
    need_lists()
    model = ours(network)
    state = octconv_state(authors_arrays(network), Path(network))
    counters = {k: v for k, v in model.state_dict().items() if "num_batches" in k}
    model.load_state_dict({**state, **counters})
    images = np.random.RandomState(1234).randn(2, 3, 64, 64).astype("float32")
    with torch.no_grad():
        logits = model(torch.from_numpy(images)).numpy()
    with np.load(FOLDER / "logits.npz") as file:
        wanted = file[network]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
