"""The last layer: for other classes, or left out for features."""

import logging

import pytest
import torch

import octvideo
from support import liven, narrowed

SMALL = {
    "i3d_r50": {"depth": 14, "width_per_group": 8, "num_frames": 4, "crop_size": 32},
    "x3d_s": {**narrowed("x3d_s"), "num_frames": 4, "crop_size": 32},
    "resnet26_v2": {"width": 8},
}
CLIPS = {"i3d_r50": (2, 3, 4, 48, 48), "x3d_s": (2, 3, 4, 48, 48), "resnet26_v2": (2, 3, 48, 48)}


@pytest.mark.parametrize("name", SMALL)
def test_without_a_last_layer_there_are_features(name, tmp_path, caplog):
    torch.manual_seed(0)
    model = liven(octvideo.create_model(name, 5, 0.25, **SMALL[name])).eval()
    model.class_names = list("abcde")
    torch.save(
        {"model_state": model.state_dict(), "spec": model.spec.to_dict()}, tmp_path / "a.pyth"
    )
    x = torch.randn(CLIPS[name], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores = model(x)
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        loaded = octvideo.create_model(name, 0, pretrained=tmp_path / "a.pyth", **SMALL[name])
        torch.testing.assert_close(loaded.eval()(x), features)
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert loaded.spec.num_classes == 0
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), features)
        assert model.bfloat16()(x.bfloat16()).shape == features.shape
        model.float().reset_classifier(7)
        again = model(x)
    assert not hasattr(model, "class_names")
    assert (again.shape, model.spec.num_classes) == ((2, 7), 7)
    torch.testing.assert_close(again.sum(1), torch.ones(2))
    assert scores.shape == (2, 5)
    assert model.train()(x).requires_grad
    for wrong in (-1, 2.5):
        with pytest.raises(ValueError, match="num_classes must be a whole number"):
            model.reset_classifier(wrong)


def test_features_of_a_new_network():
    model = octvideo.create_model("oct_i3d_r50", 0, **SMALL["i3d_r50"]).eval()
    assert model.spec.octave.alpha == 0.125
    assert not [key for key in model.state_dict() if key.startswith("head.")]
    fast = octvideo.optimize_for_inference(model)
    x = torch.randn(CLIPS["i3d_r50"])
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-4)
