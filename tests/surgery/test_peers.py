"""What other libraries build, octavized, is what we build: same weights, same results."""

from pathlib import Path

import pytest
import torch

from octvideo import create_model, octavize, summary
from octvideo.utils.complexity import count
from support.peer_networks import (
    CLASSES,
    DOUBLE,
    build_peer,
    clips_of,
    our_names,
    pathways,
    randomise,
    unsaturated,
)

SIDE = 128


@pytest.mark.parametrize(
    ("alpha", "stages"),
    [
        *((0.5, (2, 3, 4)), (0.125, (2, 3, 4, 5))),
        pytest.param(0.125, (2, 3, 4), marks=pytest.mark.slow),
        pytest.param(0.5, (2, 3, 4, 5), marks=pytest.mark.slow),
    ],
    ids=["default, half", "end, an eighth", "default, an eighth", "end, half"],
)
@pytest.mark.parametrize(
    "name",
    [
        *("i3d_r50", "slowfast_4x16_r50"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("c2d_r50", "slow_r50")),
    ],
)
def test_pytorchvideo(name: str, alpha: float, stages: tuple[int, ...], shared: Path) -> None:
    torch.manual_seed(0)
    vanilla = build_peer(name, 32, SIDE)
    ours = create_model(
        name, CLASSES, alpha, octave_stages=stages, width_per_group=32, crop_size=SIDE
    )
    x = clips_of(ours, (SIDE, SIDE))
    randomise(ours, x, unsaturated(ours))
    names = our_names(name, shared)
    example = pathways(name, x[:1])
    octave = octavize(
        vanilla,
        alpha,
        example=example,
        placement="default" if len(stages) == 3 else "end",
        exclude=["*multipathway_blocks.1.*", "*fusion*"] if name in DOUBLE else [],
    )
    keys, own = list(vanilla.state_dict()), ours.eval().state_dict()
    assert list(octave.state_dict()) == keys
    octave.load_state_dict({key: own[names[key]] for key in keys}, strict=True)
    with torch.no_grad():
        got, want = octave.eval()(pathways(name, x)), ours(x)
    assert (want[0] - want[1]).abs().max() > 1e-3, "scores that do not depend on the clip"
    torch.testing.assert_close(got, want, atol=2e-6, rtol=0)
    report = summary(octave, example)
    assert report.merges == []
    assert report.macs == count(ours, (1, *x.shape[1:])).macs


@pytest.mark.parametrize(
    "alpha", [0.25, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (0.125, 0.5, 0.75))]
)
def test_torchvision_resnet50(alpha: float, tmp_path: Path) -> None:
    """torchvision's is GluonCV's v1b: the stride is in the 3x3 convolution."""
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    vanilla = models.resnet50(weights=None).eval()
    torch.save(vanilla.state_dict(), tmp_path / "resnet50.pth")
    path = str(tmp_path / "resnet50.pth")
    ours = create_model("resnet50_v1b", octave_alpha=alpha, pretrained=path).eval()
    octave = octavize(vanilla, alpha)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = ours.forward_features(x).mean((2, 3))
        torch.testing.assert_close(octave(x), ours.head.projection(features), atol=1e-5, rtol=1e-5)
    assert summary(octave, x[:1]).macs == count(ours, (1, *x.shape[1:])).macs
