"""Our own 2D networks, octave ones included, in time: trained on pictures, begun with on videos."""

from pathlib import Path

import pytest
import torch
from torch import nn

from octvideo.models import create_model
from octvideo.weights import load_into, read_weights

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
