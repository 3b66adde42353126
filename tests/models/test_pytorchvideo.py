"""PyTorchVideo's own networks, with the same weights, give the same probabilities."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo import create_model
from octvideo.layers import Placement, octavize
from octvideo.models.placement import rules_of
from support.peer import import_pytorchvideo

CLASSES = 10
K1, K3 = (1, 1, 1), (3, 1, 1)
C2D = (K1, K1, K1, K1)
I3D = (K3, [K3, K1], [K3, K1], [K1, K3])
SLOW = (K1, K1, K3, K3)

# name -> (names of its checkpoint, frames, kernel of the stem, kernels of conv a)
SINGLE: dict[str, tuple[str, int, int, Any]] = {
    "c2d_r50": ("C2D_8x8_R50", 8, 1, C2D),
    "i3d_r50": ("I3D_8x8_R50", 8, 5, I3D),
    "slow_r50": ("SLOW_8x8_R50", 8, 1, SLOW),
    "slow_4x16_r50": ("SLOW_8x8_R50", 4, 1, SLOW),
}
# name -> (names of its checkpoint, frames of the slow pathway, frame ratio, fusion kernel)
DOUBLE = {
    "slowfast_4x16_r50": ("SLOWFAST_4x16_R50", 4, 8, 5),
    "slowfast_r50": ("SLOWFAST_8x8_R50", 8, 4, 7),
}


def build_single(name: str, width: int, side: int) -> nn.Module:
    resnet = import_pytorchvideo("models.resnet")
    _, frames, stem, kernels = SINGLE[name]
    pool = 1 if name.startswith("slow") else 2
    return resnet.create_resnet(
        model_num_class=CLASSES,
        stem_dim_out=width,
        stem_conv_kernel_size=(stem, 7, 7),
        stage_conv_a_kernel_size=kernels,
        stage1_pool=nn.MaxPool3d if pool == 2 else None,
        head_pool_kernel_size=(frames // pool, side // 32, side // 32),
        head_activation=nn.Softmax,
    )


def build_double(name: str, width: int, side: int) -> nn.Module:
    slowfast = import_pytorchvideo("models.slowfast")
    _, frames, ratio, kernel = DOUBLE[name]
    side //= 32
    return slowfast.create_slowfast(
        model_num_class=CLASSES,
        stem_dim_outs=(width, width // 8),
        slowfast_fusion_conv_kernel_size=(kernel, 1, 1),
        slowfast_fusion_conv_stride=(ratio, 1, 1),
        head_pool_kernel_sizes=((frames, side, side), (frames * ratio, side, side)),
        head_activation=nn.Softmax,
    )


@torch.no_grad()
def randomise(model: nn.Module, x: Tensor) -> None:
    """Weights that nothing cancels, and the statistics of x, or the softmax would saturate."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = 1.0
    projection = model.head.projection
    nn.init.normal_(projection.weight, std=2 / projection.in_features**0.5)
    model.train()(x)


def compare(name: str, width: int, side: int, size: tuple[int, int], shared: Path) -> None:
    torch.manual_seed(0)
    build = build_single if name in SINGLE else build_double
    theirs = build(name, width, side).eval()
    ours = create_model(name, CLASSES, width_per_group=width, crop_size=side)
    frames = ours.spec.num_frames
    # Two clips that differ in colour, or scores over all of their pixels would hardly differ.
    x = torch.randn(2, 3, frames, *size) + 3 * torch.randn(2, 3, 1, 1, 1)
    randomise(ours, x)
    names = json.loads((shared / "data" / "pyslowfast" / "ptv_to_pysf_names.json").read_text())
    state, own = theirs.state_dict(), ours.eval().state_dict()
    names = {a.removeprefix("model."): b for a, b in names[{**SINGLE, **DOUBLE}[name][0]].items()}
    assert state.keys() == names.keys()
    theirs.load_state_dict({key: own[names[key]] for key in state}, strict=True)

    with torch.no_grad():
        got, want = ours(x), theirs(pathways(name, x))
    assert got.shape == want.shape == (2, CLASSES)
    assert (want[0] - want[1]).abs().max() > 1e-3, "scores that do not depend on the clip"
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def pathways(name: str, x: Tensor) -> Tensor | list[Tensor]:
    """The input of PyTorchVideo: the frames of the slow pathway are picked by its user."""
    if name in SINGLE:
        return x
    frames = x.shape[2]
    index = torch.linspace(0, frames - 1, DOUBLE[name][1]).long()
    return [x.index_select(2, index), x]


@pytest.mark.parametrize("size", [(64, 64), (96, 113)], ids=str)
@pytest.mark.parametrize("name", [*SINGLE, *DOUBLE])
def test_narrow_networks(name: str, size: tuple[int, int], shared: Path) -> None:
    compare(name, 16, 64, size, shared)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (256, 256)], ids=str)
@pytest.mark.parametrize("name", [*SINGLE, *DOUBLE])
def test_networks_at_full_size(name: str, size: tuple[int, int], shared: Path) -> None:
    compare(name, 64, 224, size, shared)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
@pytest.mark.parametrize("name", ["i3d_r50", "slowfast_4x16_r50"])
def test_octavized_they_are_ours(name: str, alpha: float, shared: Path) -> None:
    """Their code, which has never heard of octaves, with the same weights and placement."""
    torch.manual_seed(0)
    theirs = (build_single if name in SINGLE else build_double)(name, 16, 64)
    ours = create_model(name, CLASSES, alpha, width_per_group=16, crop_size=64)
    x = torch.randn(2, 3, ours.spec.num_frames, 64, 64) + 3 * torch.randn(2, 3, 1, 1, 1)
    randomise(ours, x)
    names = json.loads((shared / "data" / "pyslowfast" / "ptv_to_pysf_names.json").read_text())
    own = ours.eval().state_dict()
    names = {a.removeprefix("model."): b for a, b in names[{**SINGLE, **DOUBLE}[name][0]].items()}
    keys = list(theirs.state_dict())
    rules = rules_of(ours.spec)
    placement = Placement(
        lambda conv: rules.is_octave(names[f"{conv}.weight"].removesuffix(".weight")), alpha
    )
    octavize(theirs, placement, pathways(name, x))
    assert list(theirs.state_dict()) == keys
    theirs.load_state_dict({key: own[names[key]] for key in keys}, strict=True)
    with torch.no_grad():
        got, want = theirs.eval()(pathways(name, x)), ours(x)
    assert (want[0] - want[1]).abs().max() > 1e-3, "scores that do not depend on the clip"
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
