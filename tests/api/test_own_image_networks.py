"""Image networks of our own training in use: as they were trained, on pictures as in a test."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import octvideo
from octvideo.api.features import extract_all, feature_path
from octvideo.api.loading import load_trained
from octvideo.api.predict import view_scores
from octvideo.api.protocols import protocol_of
from octvideo.config import dump, load_cfg
from octvideo.data.protocol import build_protocol
from octvideo.data.synthetic.videos import make_synthetic
from octvideo.engine import run_test
from octvideo.models import build_model
from support import ROOT, liven
from support.commands import run_tool

CFG = ROOT / "configs/Synthetic/OCT_RESNET26.yaml"
SMALL = ["RESNET.WIDTH_PER_GROUP", 4, "DATA.TRAIN_CROP_SIZE", 32, "DATA.TEST_CROP_SIZE", 39]
SMALL += ["DATA.IN_VAL_CROP_RATIO", 0.8, "DATA.TEST_INTERPOLATION", "bicubic", "BN.EPSILON", 1e-3]
SMALL += ["DATA.MEAN", [0.5, 0.4, 0.3], "DATA_LOADER.NUM_WORKERS", 0, "MODEL.NUM_CLASSES", 2]


def pictures(root: Path) -> None:
    rng = np.random.default_rng(3)
    for name in ("val/ant", "val/bee"):
        (root / name).mkdir(parents=True)

    def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
        small = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        return (
            Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
        )

    noise(75, 51).save(root / "val/ant/odd.JPEG")
    noise(60, 90, "L").save(root / "val/ant/grey.png")
    noise(60, 44, "CMYK").save(root / "val/ant/cmyk.jpg")
    noise(64, 48, "RGBA").save(root / "val/bee/alpha.png")
    turned = noise(90, 40)
    turned.getexif()[0x0112] = 6
    turned.save(root / "val/bee/turned.jpg", exif=turned.getexif())
    noise(12, 8).save(root / "val/bee/tiny.png")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A network as a training leaves it: opts, cfg, model, checkpoint, and pictures."""
    folder = tmp_path_factory.mktemp("own")
    pictures(folder / "data")
    paths = ["DATA.PATH_TO_DATA_DIR", folder / "data", "OUTPUT_DIR", folder / "run"]
    opts = [str(word) for word in [*SMALL, *paths]]
    cfg = load_cfg(CFG, opts)
    torch.manual_seed(0)
    model = liven(build_model(cfg))
    content = {"model_state": model.state_dict(), "epoch": 0, "cfg": dump(cfg)}
    content["class_names"] = ["ant", "bee"]
    torch.save(content, folder / "own.pyth")
    return SimpleNamespace(
        opts=opts, cfg=cfg, model=model, checkpoint=folder / "own.pyth", folder=folder
    )


@pytest.mark.timeout(120)
def test_a_picture_is_seen_as_in_a_test(own: SimpleNamespace, tmp_path: Path) -> None:
    test = ["TEST.CHECKPOINT_FILE_PATH", str(own.checkpoint), "TEST.SAVE_RESULTS_PATH", "s.npz"]
    cfg = load_cfg(CFG, [*own.opts, *test])
    assert run_test(cfg)["num_videos"] == 6
    with np.load(own.folder / "run" / "s.npz") as saved:
        expected = dict(zip(saved["paths"].tolist(), saved["scores"][:, 0], strict=True))
    assert np.ptp([scores[0] for scores in expected.values()]) > 0.1

    trained = load_trained(CFG, own.checkpoint, own.opts)
    by_name = octvideo.create_model("resnet26_v1b", pretrained=own.checkpoint).eval()
    for model in (trained, by_name):
        for path, scores in expected.items():
            settings = protocol_of(model)
            for fast in (False, True):
                found = view_scores(path, model, settings, fast)
                np.testing.assert_allclose(found, scores[None], rtol=0, atol=1e-5)
            best = octvideo.predict(path, model)
            assert [label for label, _ in best] == [("ant", "bee")[i] for i in np.argsort(-scores)]
            features = octvideo.extract_features(path, model)
            logits = model.head.projection(torch.from_numpy(features)).softmax(0)
            np.testing.assert_allclose(logits.detach().numpy(), scores, rtol=0, atol=1e-5)
    extract_all([*expected], trained, protocol_of(trained), tmp_path, num_workers=1)
    with np.load(feature_path(path, tmp_path)) as saved:
        np.testing.assert_allclose(saved["features"], features, rtol=1e-5, atol=1e-6)


@pytest.mark.timeout(120)
def test_the_tool(own: SimpleNamespace, tmp_path: Path) -> None:
    """Pictures whatever their names, videos of frames, and what is damaged."""
    picture = own.folder / "data/val/ant/odd.JPEG"
    (tmp_path / "photo").write_bytes(picture.read_bytes())
    (tmp_path / "cut.jpg").write_bytes(picture.read_bytes()[:300])
    make_synthetic(tmp_path / "set", num_train=1, num_val=0, num_test=0, seconds=(1, 1))
    [video] = (tmp_path / "set").rglob("*.mp4")
    words = ["--cfg", CFG, "--checkpoint", own.checkpoint, "--json", "--opts", *own.opts]
    files = [picture, tmp_path / "photo", tmp_path / "cut.jpg", video]
    done = run_tool("predict.py", *files, *words)
    assert done.returncode == 1, done.stderr
    assert "cut.jpg" in done.stderr
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first["scores"] == second["scores"]
    assert third["video"] == str(video)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def same(model: torch.nn.Module, own: SimpleNamespace) -> bool:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return bool((model.eval()(x) - own.model(x)).abs().max() < 1e-6)


def test_a_checkpoint_tells_its_network(own: SimpleNamespace, caplog) -> None:
    caplog.set_level(logging.INFO, "octvideo")
    model = octvideo.create_model("resnet26_v1b", pretrained=own.checkpoint)
    assert same(model, own)
    assert (model.spec.octave.alpha, model.spec.octave.stages) == (0.25, (2, 3, 4))
    assert (model.spec.width, model.spec.bn_eps) == (4, 1e-3)
    assert model.protocol == build_protocol(own.cfg)
    assert "octave_alpha=0.25" in caplog.text
    assert not warnings_in(caplog)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"octave_alpha": 0.25}, None),
        ({"octave_alpha": 0.0}, "octave_alpha was 0.25, is 0.0"),
        ({"octave_alpha": 0.5}, "octave_alpha was 0.25, is 0.5"),
        ({"octave_stages": (2, 3)}, "octave_stages was (2, 3, 4), is (2, 3)"),
        ({"crop_size": 64, "dropout_rate": 0.5}, None),
    ],
)
def test_a_contradiction_is_told(own: SimpleNamespace, caplog, asked: dict, told: str) -> None:
    model = octvideo.create_model("resnet26_v1b", pretrained=own.checkpoint, **asked)
    warnings = warnings_in(caplog)
    assert len(warnings) == (told is not None)
    assert same(model, own) == (told is None)
    if told:
        assert f"{own.checkpoint} was trained as another network: {told}. " in warnings[0]


def test_a_vanilla_checkpoint_of_ours(own: SimpleNamespace, tmp_path: Path, caplog) -> None:
    cfg = load_cfg(CFG, [*own.opts, "OCTAVE.ENABLE", "False"])
    torch.save({"model_state": own.model.state_dict(), "cfg": dump(cfg)}, tmp_path / "v.pyth")
    model = octvideo.create_model("resnet26_v1b", pretrained=tmp_path / "v.pyth")
    assert not model.spec.is_octave
    assert not warnings_in(caplog)
    model = octvideo.create_model("resnet26_v1b", octave_alpha=0.5, pretrained=tmp_path / "v.pyth")
    assert (model.spec.octave.alpha, model.spec.octave.stages) == (0.5, (2, 3, 4))
    assert "was trained as another network: octave_alpha was 0.0, is 0.5" in caplog.text


def test_a_video_network_begins_as_the_image_network(own: SimpleNamespace, caplog) -> None:
    """Inflated by name, on the same picture in all frames."""
    model = octvideo.create_model("c2d_r50", 2, pretrained=own.checkpoint, depth=26, crop_size=32)
    assert (model.spec.octave.alpha, model.spec.octave.stages) == (0.25, (2, 3, 4))
    assert "another network" not in caplog.text
    seen = []
    for network in (own.model, model.eval()):
        network.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own.model(x)
        model(x.unsqueeze(2).expand(-1, -1, 4, -1, -1))
    picture, video = (v[0] if isinstance(v, (list, tuple)) else v for v in seen)
    assert (video - picture.unsqueeze(2)).abs().max() <= 1e-5 * picture.abs().max()
    octvideo.create_model(
        "c2d_r50", 2, pretrained=own.checkpoint, depth=26, crop_size=32, pool_stride=False
    )
    assert "trained as another network: pool_stride was True, is False" in caplog.text


def test_a_video_checkpoint_tells_its_network(tmp_path: Path, caplog) -> None:
    cfg = load_cfg(
        ROOT / "configs/Synthetic/OCT_I3D.yaml",
        ["OCTAVE.STAGES", [2, 3], "OCTAVE.ALPHA", 0.5, "DATA.SAMPLING_RATE", 3],
    )
    torch.save(
        {"model_state": build_model(cfg).state_dict(), "cfg": dump(cfg)}, tmp_path / "a.pyth"
    )
    model = octvideo.create_model("i3d_r50", pretrained=tmp_path / "a.pyth", depth=14)
    assert (model.spec.octave.alpha, model.spec.octave.stages) == (0.5, (2, 3))
    assert model.protocol == build_protocol(cfg)
    assert not warnings_in(caplog)


def test_a_configuration_of_another_project_is_no_obstacle(own: SimpleNamespace, tmp_path) -> None:
    for number, text in enumerate(("MODEL: {ARCH: mvit}", "a: [", "[1]", "x", "A: &a [*a]")):
        path = tmp_path / f"{number}.pyth"
        torch.save({"model_state": own.model.state_dict(), "cfg": text}, path)
        octvideo.create_model("resnet26_v1b", pretrained=path, width=4)
