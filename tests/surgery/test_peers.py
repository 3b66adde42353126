"""What other libraries build, octavized, is what we build: same weights, same results."""

import json
import sys
from pathlib import Path

import pytest
import torch

from octvideo import create_model, octavize, summary
from octvideo.utils.complexity import count
from support import ROOT

sys.path.append(str(ROOT / "tests" / "models"))
from test_pytorchvideo import (
    CLASSES,
    DOUBLE,
    SINGLE,
    build_double,
    build_single,
    pathways,
    randomise,
)

SIDE = 128


@pytest.mark.parametrize("alpha", [0.125, 0.5])
@pytest.mark.parametrize("stages", [(2, 3, 4), (2, 3, 4, 5)], ids=["default", "end"])
@pytest.mark.parametrize("name", ["i3d_r50", "c2d_r50", "slow_r50", "slowfast_4x16_r50"])
def test_pytorchvideo(name: str, alpha: float, stages: tuple[int, ...], shared: Path) -> None:
    torch.manual_seed(0)
    vanilla = (build_single if name in SINGLE else build_double)(name, 32, SIDE)
    ours = create_model(
        name, CLASSES, alpha, octave_stages=stages, width_per_group=32, crop_size=SIDE
    )
    x = torch.randn(2, 3, ours.spec.num_frames, SIDE, SIDE) + 3 * torch.randn(2, 3, 1, 1, 1)
    randomise(ours, x)
    names = json.loads((shared / "data" / "pyslowfast" / "ptv_to_pysf_names.json").read_text())
    names = {a.removeprefix("model."): b for a, b in names[{**SINGLE, **DOUBLE}[name][0]].items()}
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


@pytest.mark.parametrize("alpha", [0.125, 0.25, 0.5, 0.75])
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
