"""torchvision's and timm's networks; skipped where the library is absent (see .ci/torch_next)."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import octvideo
from octvideo.config import load_cfg
from octvideo.models import build_model
from octvideo.utils.complexity import count
from octvideo.weights import read_weights

IMAGES: dict[str, Any] = {"num_frames": 1, "crop_size": 64}
CLIPS: dict[str, Any] = {"num_frames": 8, "crop_size": 64}


def library(name: str) -> ModuleType:
    """The module of a library; a RuntimeError is one that does not load beside this torch."""
    try:
        return pytest.importorskip(name, exc_type=ImportError)
    except RuntimeError as error:
        pytest.skip(f"{name} does not load here: {error}")


def cfg_of(name: str, *more: object) -> Any:
    return load_cfg(None, ["MODEL.ARCH", "external", "MODEL.MODEL_NAME", name, *more])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", IMAGES),
        ("mobilenet_v3_small", IMAGES),
        ("squeezenet1_1", IMAGES),
        ("r2plus1d_18", CLIPS),
    ],
)
def test_networks_of_torchvision(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    models: Any = library("torchvision").models
    torch.manual_seed(0)
    classes = 1000 if options["num_frames"] == 1 else 400
    theirs = models.get_model(name, weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model: Any = octvideo.create_model(
        f"torchvision/{name}", pretrained=tmp_path / "theirs.pth", **options
    ).eval()
    assert model.spec.num_classes == classes
    shape = (2, 3, *(() if model.spec.is_image else (options["num_frames"],)), 64, 64)
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x).softmax(1))
    few: Any = octvideo.create_model(
        f"torchvision/{name}", 5, 0.25, pretrained=tmp_path / "theirs.pth", **options
    )
    assert few(x).shape == (2, 5)
    assert count(few, shape).macs < 0.95 * count(model, shape).macs
    few.eval()
    features = few.forward_head(few.forward_features(x), pre_logits=True)
    few.reset_classifier(0)
    expected = few(x)
    if name != "squeezenet1_1":  # whose last layer is followed by a ReLU
        torch.testing.assert_close(features, expected)
    assert features.shape == expected.shape


def test_timm() -> None:
    timm: Any = library("timm")
    theirs = timm.create_model("resnet18", num_classes=5).eval()
    model: Any = octvideo.create_model("timm/resnet18", 5, **IMAGES).eval()
    model.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x).softmax(1))
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        torch.testing.assert_close(features, expected)
    for name in ("regnety_002", "mobilenetv3_small_050"):
        small: Any = octvideo.create_model(f"timm/{name}", 7, 0.25, **IMAGES)
        assert small(x).shape == (2, 7)
    with pytest.raises(octvideo.UserError, match="timm/resnet"):
        octvideo.create_model("timm/resnet18x")
    with pytest.raises(octvideo.UserError, match="timm has no network"):
        octvideo.create_model("timm/hf_hub:someone/network")


def test_the_input_is_the_published_one() -> None:
    library("torchvision"), library("timm")
    cfg = cfg_of("torchvision/r2plus1d_18", "DATA.STD", [0.2, 0.2, 0.2])
    assert (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.TRAIN_CROP_SIZE) == (16, 2, 112)
    assert cfg.DATA.MEAN == [0.43216, 0.394666, 0.37645]
    assert cfg.DATA.STD == [0.2, 0.2, 0.2]
    model: Any = octvideo.create_model("torchvision/r2plus1d_18")
    assert (model.protocol.mean, model.protocol.short_side) == (tuple(cfg.DATA.MEAN), 128)
    images = cfg_of("timm/resnet50")
    assert (images.DATA.NUM_FRAMES, images.DATA.IN_VAL_CROP_RATIO) == (1, 224 / 235)
    assert images.DATA.TEST_INTERPOLATION == "bicubic"
    with torch.device("meta"):
        assert build_model(images).spec.is_image


@pytest.mark.parametrize("name", ["R2PLUS1D_18", "OCT_R2PLUS1D_18", "RESNET50", "OCT_RESNET50"])
def test_the_recipes_build(name: str) -> None:
    cfg = load_cfg(f"External/{name}")
    library(cfg.MODEL.MODEL_NAME.partition("/")[0])
    with torch.device("meta"):
        model: Any = build_model(cfg)
    assert bool(model.spec.octave.alpha) is name.startswith("OCT_")


def test_published_weights_are_asked_of_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a download would give: the library's own loading is called, and its state taken."""
    models: Any = library("torchvision").models
    enum = models.get_model_weights("resnet18")
    state = models.get_model("resnet18", weights=None).state_dict()
    monkeypatch.setattr(enum, "get_state_dict", lambda *args, **kwargs: state)
    weights = read_weights("torchvision/resnet18")
    assert weights.class_names is not None
    assert weights.class_names[0] == "tench"
    model: Any = octvideo.create_model("torchvision/resnet18", pretrained=True)
    assert torch.equal(model.state_dict()["conv1.weight"], state["conv1.weight"])
    assert model.class_names == weights.class_names
    assert model.protocol.centre_crop.short_side == 256
