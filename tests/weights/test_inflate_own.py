"""Our own 2D networks, octave ones included, in time: trained on pictures, begun with on videos."""

from pathlib import Path

import pytest
import torch
from torch import nn

import octvideo
from octvideo import create_model
from octvideo.weights import CheckpointError, load_into, read_weights

FRAMES = 24
VIDEO = {"depth": 26, "width_per_group": 8, "num_frames": FRAMES, "crop_size": 64}
# Placement in the 2D network and in the video network, which must be the same.
PLACEMENTS = {
    "vanilla": {},
    "oct": {"octave_alpha": 0.25, "octave_stages": (2, 3, 4)},
    "oct_odd_split": {"octave_alpha": 0.1, "octave_stages": (2, 3, 4)},
    "oct_all_stages": {"octave_alpha": 0.25, "octave_stages": (2, 3, 4, 5)},
}


def trained(placement: str) -> nn.Module:
    """A network whose batch norm has seen something, in eval()."""
    torch.manual_seed(3)
    model = create_model(
        "resnet26_v1b", num_classes=5, width=8, head_activation="none", **PLACEMENTS[placement]
    )
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def features(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the head is given."""
    seen: list[torch.Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    value = seen[0]
    return value[0] if isinstance(value, (list, tuple)) else value


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((actual - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("arch", ["c2d", "i3d", "slow"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_still_video_is_seen_as_its_picture(placement: str, arch: str, tmp_path: Path) -> None:
    network = trained(placement)
    path = tmp_path / "checkpoint_epoch_00001.pyth"
    torch.save({"model_state": network.state_dict(), "epoch": 0}, path)
    options = {**PLACEMENTS[placement], "pool_stride": True}
    model = create_model(
        f"{arch}_r50", num_classes=5, head_activation="none", **VIDEO, **options
    ).eval()
    report = load_into(model, read_weights(path), finetune=True, inflate=True)
    assert not report.left_out

    generator = torch.Generator().manual_seed(1)
    picture = torch.randn(2, 3, 64, 64, generator=generator)
    video = picture.unsqueeze(2).expand(-1, -1, FRAMES, -1, -1)
    expected, found = features(network, picture), features(model, video)
    # Kernels in time reach beyond the first and the last frame, into zeros: not so in the middle.
    middle = found.shape[2] // 2
    frames = range(found.shape[2]) if arch == "c2d" else [middle]
    assert expected.abs().max() > 0.1
    assert all(close(found[:, :, t], expected) for t in frames)
    if arch == "c2d":
        with torch.no_grad():
            assert close(model(video), network(picture))
    else:  # the test can tell: at the border it is another value
        assert not close(found[:, :, 0], expected)


def as_pyslowfast_saves(network: nn.Module, path: Path, with_cfg: bool = True) -> Path:
    """Its ImageNet training builds all convolutions as Conv3d, with one frame."""
    state = {k: v.unsqueeze(2) if v.ndim == 4 else v for k, v in network.state_dict().items()}
    cfg = "MODEL: {ARCH: 2d, MODEL_NAME: ResNet}\nRESNET: {DEPTH: 26, WIDTH_PER_GROUP: 8}\n"
    torch.save({"model_state": state, "epoch": 99, **({"cfg": cfg} if with_cfg else {})}, path)
    return path


@pytest.mark.parametrize("with_cfg", [False, True])
def test_kernels_of_one_frame(tmp_path: Path, with_cfg: bool) -> None:
    network = trained("vanilla")
    path = as_pyslowfast_saves(network, tmp_path / "r26.pyth", with_cfg)
    weights = read_weights(path)
    assert weights.is_2d == with_cfg  # C2D, a network of videos, has such kernels too
    image = create_model("resnet26_v1b", num_classes=5, width=8, head_activation="none").eval()
    assert not load_into(image, weights).left_out
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(image(x), network(x))
    video = create_model("i3d_r50", num_classes=5, **VIDEO)
    assert not load_into(video, weights, finetune=True, inflate=True).left_out
    for key, value in video.state_dict().items():
        flat = value.sum(2) if value.ndim == 5 else value
        torch.testing.assert_close(flat, network.state_dict()[key], msg=key)
    with pytest.raises(CheckpointError, match=r"set TRAIN\.CHECKPOINT_INFLATE True"):
        load_into(create_model("i3d_r50", num_classes=5, **VIDEO), weights)


def test_kernels_of_one_frame_by_name(tmp_path: Path) -> None:
    network = trained("vanilla")
    path = as_pyslowfast_saves(network, tmp_path / "r26.pyth")
    named = octvideo.create_model("i3d_r50", 7, pretrained=path, **VIDEO)
    kernel = named.state_dict()["s3.pathway0_res0.branch2.a.weight"]
    torch.testing.assert_close(
        kernel.sum(2), network.state_dict()["s3.pathway0_res0.branch2.a.weight"]
    )
