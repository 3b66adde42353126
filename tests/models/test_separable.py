"""R(2+1)D and CSN: PyTorchVideo's numbers and counts, and PySlowFast's files of them."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from octvideo import create_model
from octvideo.config import load_cfg
from octvideo.layers import OctConv3d
from octvideo.models import build_model
from octvideo.utils.complexity import count
from octvideo.weights.names.pytorchvideo import pytorchvideo_names
from support.layer_counts import octave_macs
from support.peer import import_pytorchvideo
from support.peer_networks import randomise

FRAMES = {"r2plus1d_r50": 8, "csn_r101": 16}


def peer_of(name: str, width: int = 64, depth: int = 50, **options: Any) -> nn.Module:
    """As PyTorchVideo's hub has them, for clips of FRAMES in crops of 64."""
    if name == "csn_r101":
        options |= {"stem_pool": nn.MaxPool3d}
        return import_pytorchvideo("models.csn").create_csn(
            model_depth=depth, stem_dim_out=width, head_pool_kernel_size=(2, 2, 2), **options
        )
    options |= {"head_activation": None, "dropout_rate": 0.5}
    return import_pytorchvideo("models.r2plus1d").create_r2plus1d(
        model_depth=depth, stem_dim_out=width, head_pool_kernel_size=(2, 2, 2), **options
    )


@pytest.mark.parametrize("size", [(64, 64), (81, 96)], ids=str)
@pytest.mark.parametrize("name", FRAMES)
def test_pytorchvideo_gives_the_same(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    frames = FRAMES[name]
    peer = peer_of(name, 8, model_num_class=10).double()
    options = {"crop_size": 64, "num_frames": frames, "width_per_group": 8, "depth": 50}
    ours = create_model(name, 10, head_activation="none", **options).double()
    x = torch.randn(2, 3, frames, *size).double() + torch.randn(2, 3, 1, 1, 1)
    randomise(ours, x, 0.1)
    names = pytorchvideo_names(peer.state_dict())
    own = ours.eval().state_dict()
    assert list(names.values()) == list(own)
    peer.load_state_dict({key: own[name] for key, name in names.items()}, strict=True)
    with torch.no_grad():
        got, want = ours(x), peer.eval()(x)
    assert (want[0] - want[1]).abs().max() > 1e-2 * want.abs().max()
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


@pytest.mark.parametrize(
    ("name", "millions"), [("r2plus1d_r50", 28.11), ("csn_r101", 22.21)], ids=str
)
def test_published_parameters_and_shapes_of_the_peer(name: str, millions: float) -> None:
    with torch.device("meta"):
        ours = create_model(name)
        peer = peer_of(name, depth=ours.spec.depth)
        octave = create_model(name, octave_alpha=0.25)
    assert count(ours).params / 1e6 == pytest.approx(millions, abs=0.006)
    names = pytorchvideo_names(peer.state_dict())
    shapes = {names[key]: value.shape for key, value in peer.state_dict().items()}
    for model in (ours, octave):
        state = {key: value.shape for key, value in model.state_dict().items()}
        assert list(state.items()) == list(shapes.items())
    assert ours.spec.head_window == (4, 7, 7)


@pytest.mark.parametrize("alpha", [pytest.param(0.125, marks=pytest.mark.slow), 0.5])
@pytest.mark.parametrize("name", FRAMES)
def test_octave_counts_by_the_paper(name: str, alpha: float) -> None:
    with torch.device("meta"):
        vanilla, octave = create_model(name), create_model(name, octave_alpha=alpha)
    clip = (1, 3, vanilla.spec.num_frames, 224, 224)
    assert count(octave, clip).macs == octave_macs(vanilla, alpha, clip) < count(vanilla, clip).macs
    blocks = [m for n, m in octave.named_modules() if re.search(r"branch2\.(b|b_t)$", n)]
    assert all(isinstance(m, OctConv3d) for m in blocks)
    assert all(m.is_depthwise == (name == "csn_r101") for m in blocks)


@pytest.mark.parametrize(
    ("arch", "model", "name"),
    [("r2plus1d", "PTVR2plus1D", "r2plus1d_r50"), ("csn", "PTVCSN", "csn_r101")],
)
def test_files_of_pyslowfast(arch: str, model: str, name: str) -> None:
    with torch.device("meta"):
        wanted = create_model(name).spec
        values = {
            "MODEL.ARCH": arch,
            "MODEL.MODEL_NAME": model,
            "RESNET.DEPTH": wanted.depth,
            "DATA.INPUT_CHANNEL_NUM": [3],
            "TRAIN.DATASET": "ptvkinetics",
        }
        cfg = load_cfg(opts=[x for pair in values.items() for x in pair])
        spec = build_model(cfg).spec
    assert not wanted.differences(spec)
    assert not spec.differences(wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"num_groups": 2},
        {"stride_1x1": True},
        {"spatial_dilations": (1, 1, 1, 2)},
        {"transform": "basic_transform", "depth": 18},
    ],
)
@pytest.mark.parametrize("name", FRAMES)
def test_what_they_do_not_have(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} of (csn|r2plus1d) is"):
        create_model(name, **options)
