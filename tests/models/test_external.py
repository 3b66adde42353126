"""Networks of other projects: what they are built from, what is refused, and PyTorchVideo's."""

import copy
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import octvideo
from octvideo.api.inference import for_inference
from octvideo.config import ConfigError, dump, get_cfg, load_cfg
from octvideo.layers.fused import FusedConv
from octvideo.models import build, build_model, spec_from_dict
from octvideo.models.external import ExternalSpec
from octvideo.surgery import octavize
from octvideo.utils.complexity import count
from octvideo.utils.errors import UserError
from support.peer import import_pytorchvideo

SMALL: dict[str, Any] = {"num_frames": 4, "crop_size": 32}
OWN = "support.own_networks"


def test_a_record_is_read_back_and_compared() -> None:
    spec = ExternalSpec("timm/resnet50", 5, options={"width": 8, "act": "relu"}, num_frames=1)
    assert spec.options == ("act='relu'", "width=8")
    assert spec == ExternalSpec("timm/resnet50", 5, options=("width=8", "act=relu"), num_frames=1)
    assert spec_from_dict(spec.to_dict()) == spec
    other = ExternalSpec("timm/resnet18", 5, options=spec.options, num_frames=1, crop_size=64)
    [difference] = spec.differences(other)
    assert difference.in_keys == "MODEL.MODEL_NAME was timm/resnet50, is timm/resnet18"


@pytest.mark.parametrize(
    "values",
    [
        {"name": "resnet50"},
        {"name": "tensorflow/resnet50"},
        {"name": "os:system('ls')"},
        {"options": {"layers": nn.ReLU}},
        {"options": ("width",)},
        {"octave": octvideo.models.OctavePlacement(0.25, stages=(2, 3))},
        {"head_activation": "relu"},
    ],
)
def test_records_of_no_network_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"MODEL|OCTAVE|option|activation"):
        ExternalSpec(**{"name": "timm/resnet50", **values})


@pytest.mark.parametrize(
    ("function", "more", "words"),
    [
        ("probabilities", {}, "softmax"),
        ("named_scores", {}, "dict"),
        ("maps", {}, r"\(2, 8, 4, 8, 8\)"),
        ("no_network", {}, "Tensor"),
        ("two_heads", {}, "num_classes"),
        ("missing", {}, "no function missing"),
        ("video", {"options": {"height": 3}}, "height"),
        ("video", {"options": {"num_classes": 3}}, "MODEL.NUM_CLASSES"),
        ("video", {"num_frames": 1}, "images"),
        ("image", {}, "NUM_FRAMES"),
    ],
)
def test_what_cannot_be_trained_is_refused(function: str, more: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        octvideo.create_model(f"{OWN}:{function}", 5, **{**SMALL, **more})
    assert "MODEL." in str(caught.value)
    assert f"{OWN}:{function}" in str(caught.value)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(UserError, match="PYTHONPATH"):
        octvideo.create_model("no_such_package.module:function")


def test_a_file_cannot_have_code_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its record nor by its configuration, unless the user names the same."""
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    vanilla: Any = octvideo.create_model(f"{OWN}:video", 5, **SMALL)
    spec = {**vanilla.spec.to_dict(), "name": "hostile_module:make"}
    opts = ["MODEL.ARCH", "external", "MODEL.MODEL_NAME", "hostile_module:make"]
    for cfg in ({}, {"cfg": dump(load_cfg(None, opts))}):
        path = tmp_path / "file.pyth"
        torch.save({"model_state": vanilla.state_dict(), "epoch": 0, "spec": spec, **cfg}, path)
        for name in (None, f"{OWN}:video"):
            with pytest.raises(UserError, match="code to import"):
                octvideo.load(path, network=name)
        octvideo.create_model(f"{OWN}:video", pretrained=path, **SMALL)
        with pytest.raises(UserError, match="does not fit"):
            octvideo.create_model("i3d_r18", pretrained=path)
        with pytest.raises(SystemExit, match="it ran"):
            octvideo.load(path, network="hostile_module:make")
    # Libraries look for nothing on a hub, and load no file, for a record.
    for option in ("pretrained=True", "checkpoint_path='x'", "weights='DEFAULT'"):
        with pytest.raises(UserError, match=r"MODEL\.OPTIONS"):
            build(ExternalSpec("pytorchvideo/x3d_s", options=(option,)))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "pytorchvideo/x3d_s"])
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = name.partition("/")[0]
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"{library}.*pip install"):
        octvideo.create_model(name)
    if library != "pytorchvideo":  # whose clips are known without it
        with pytest.raises(ConfigError, match=rf"MODEL.MODEL_NAME {name} needs {library}"):
            load_cfg(None, ["MODEL.ARCH", "external", "MODEL.MODEL_NAME", name])


def test_the_network_has_the_mode_the_classes_and_the_names_of_its_own() -> None:
    model: Any = octvideo.create_model(f"{OWN}:video", 5, **SMALL)
    assert list(model.state_dict()) == list(model.network.state_dict())
    x = torch.randn(2, 3, 4, 32, 32)
    model.eval()
    logits = model.network(x)
    torch.testing.assert_close(model(x), logits.softmax(1))
    torch.testing.assert_close(model([x]), logits.softmax(1))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), model(x))
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), model.forward_head(model.forward_features(x), True))
    model.reset_classifier(3)
    assert (model(x).shape, model.spec.num_classes) == ((2, 3), 3)
    assert build(model.spec).state_dict()["15.weight"].shape == (3, 8)
    for wrong in (x[0], x[:, :2], x.long(), [x, x]):
        with pytest.raises(ValueError, match="clip"):
            model(wrong)


def test_the_octave_form_is_what_octavize_makes() -> None:
    vanilla: Any = octvideo.create_model(f"{OWN}:video", 5, **SMALL)
    model: Any = octvideo.create_model(f"{OWN}:video", 5, octave_alpha=0.25, **SMALL)
    model.load_state_dict(vanilla.state_dict())
    x = torch.randn(2, 3, 4, 32, 32)
    expected = octavize(vanilla.network, 0.25, example=x)
    torch.testing.assert_close(model.eval()(x), expected.eval()(x).softmax(1))
    assert count(model, x.shape).macs < 0.9 * count(vanilla, x.shape).macs
    with pytest.raises(ValueError, match=r"OCTAVE\.STAGES"):
        octvideo.create_model(f"{OWN}:video", octave_alpha=0.25, octave_stages=(2, 3))
    # Which layers are octave depends on the size of the maps.
    same = replace(model.spec, num_frames=8)
    assert not model.spec.differences(same)
    assert model.spec.differences(replace(same, crop_size=64))
    assert not vanilla.spec.differences(replace(vanilla.spec, crop_size=64))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_for_inference_norms_and_relus_are_part_of_the_convolutions(alpha: float) -> None:
    model: Any = octvideo.create_model(f"{OWN}:video", 5, octave_alpha=alpha, **SMALL).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    fast = for_inference(model, "fp32")
    kinds = [type(m) for m in fast.modules()]
    assert (kinds.count(FusedConv), kinds.count(nn.ReLU)) == (4, 0)
    assert not any(issubclass(kind, nn.BatchNorm3d) for kind in kinds)
    assert for_inference(model, "fp32") is fast
    x = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(fast(x), model(x))
    torch.testing.assert_close(fast.forward_features(x), model.forward_features(x))


def test_an_image_network_takes_images_and_clips_of_one_frame() -> None:
    model: Any = octvideo.create_model(f"{OWN}:image", 5, num_frames=1, crop_size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), model(x[:, :, None]))
    assert model.protocol.centre_crop is not None


def test_keys_of_a_configuration() -> None:
    opts = ["MODEL.ARCH", "external", "MODEL.MODEL_NAME", f"{OWN}:video", "DATA.NUM_FRAMES", 4]
    cfg = load_cfg(None, [*opts, "MODEL.OPTIONS", "['width=4']", "MODEL.NUM_CLASSES", 5])
    model: Any = build_model(cfg)
    assert model.state_dict()["0.weight"].shape[0] == 4
    for wrong in (["OCTAVE.ENABLE", True, "OCTAVE.STAGES", [2, 3]], ["MODEL.OPTIONS", "['4']"]):
        with pytest.raises(UserError, match=r"OCTAVE\.STAGES|MODEL\.OPTIONS"):
            build_model(load_cfg(None, [*opts, *wrong]))
    of_ours = ["MODEL.ARCH", "i3d", "MODEL.MODEL_NAME", "ResNet", "MODEL.OPTIONS", "['a=1']"]
    for wrong in (["MODEL.MODEL_NAME", "resnet50"], of_ours):
        with pytest.raises(ConfigError, match=r"MODEL\.(MODEL_NAME|OPTIONS)"):
            load_cfg(None, [*opts, *wrong])
    assert get_cfg().MODEL.OPTIONS == []


def test_a_library_says_how_its_weights_see_a_video() -> None:
    cfg = load_cfg(
        None,
        ["MODEL.ARCH", "external", "MODEL.MODEL_NAME", "pytorchvideo/x3d_s", "DATA.NUM_FRAMES", 8],
    )
    assert (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE) == (8, 6)
    assert (cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE) == (160, 182)
    with pytest.raises(ConfigError, match=r"did you mean pytorchvideo/x3d|Did you mean"):
        load_cfg(None, ["MODEL.ARCH", "external", "MODEL.MODEL_NAME", "pytorchvideo/x3d_xx"])


@pytest.mark.parametrize("name", ["x3d_xs", "slow_r50"])
def test_networks_of_pytorchvideo(name: str) -> None:
    hub = import_pytorchvideo("models.hub")
    torch.manual_seed(0)
    theirs = getattr(hub, name)()
    options: dict[str, Any] = {"num_frames": 4, "crop_size": 64}
    model: Any = octvideo.create_model(f"pytorchvideo/{name}", **options)
    model.load_state_dict(theirs.state_dict())
    model.eval()
    x = torch.randn(1, 3, 4, 64, 64)
    head, features = theirs.blocks[-1], x
    with torch.no_grad():
        for block in theirs.eval().blocks[:-1]:
            features = block(features)
        if name == "x3d_xs":  # its head has layers of its own before the pool
            pool = head.pool
            features = pool.pre_act(pool.pre_norm(pool.pre_conv(features)))
            features = pool.post_act(pool.post_conv(features.mean((2, 3, 4), keepdim=True)))
        features = features.mean((2, 3, 4))
        torch.testing.assert_close(
            model.forward_head(model.forward_features(x), pre_logits=True), features
        )
        torch.testing.assert_close(model(x), head.proj(features).softmax(1))
    model.train()
    model(x.repeat(2, 1, 1, 1, 1)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
