"""Networks of ours that became octave after their training: the record makes them again."""

import copy
from dataclasses import replace

import pytest
import torch

from octvideo import create_model, octavize, optimize_for_inference
from octvideo.layers import OctConv2d, OctConv3d
from octvideo.models import build, spec_from_dict
from octvideo.surgery import low_channels

OPTIONS = {"width_per_group": 16, "crop_size": 64}


def vanilla(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    is_video = not name.startswith("resne")
    model = create_model(name, 10, **(OPTIONS if is_video else {})).eval()
    x = torch.randn(2, 3, *((model.spec.num_frames,) if is_video else ()), 64, 64)
    return model, x


@pytest.mark.parametrize(
    "name", ["i3d_r50", "resnet26_v1b", pytest.param("resnext50_32x4d", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("placement", ["default", "end"])
def test_the_record_makes_the_same_network(name: str, placement: str) -> None:
    model, x = vanilla(name)
    octave = octavize(model, 0.25, example=x[:1], placement=placement, choose="smooth", batches=[x])
    channels = tuple(low_channels(octave).items())
    assert any(runs[0][0] > 0 for _, runs in channels), "only first channels"
    place = replace(model.spec.octave, alpha=0.25, channels=channels)
    spec = spec_from_dict(replace(model.spec, octave=place).to_dict())
    again = build(spec).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        want = octave(x)
        assert torch.equal(again(x), want)
        fast = optimize_for_inference(copy.deepcopy(again))
        torch.testing.assert_close(fast(x), want, atol=1e-5, rtol=1e-4)
    assert any(isinstance(m, (OctConv2d, OctConv3d)) for m in again.modules())
    different = spec.differences(replace(model.spec, octave=replace(place, channels=())))
    assert [d.option for d in different] == ["octave_channels"]
    assert len(str(different[0])) < 300 > len(different[0].in_keys)
