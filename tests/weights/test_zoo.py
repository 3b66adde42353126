"""The zoo: its table, its page, and models with weights from a server on this machine."""

import hashlib
import logging
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import octvideo
from octvideo.apps.zoo_page import zoo_page
from octvideo.config import load_cfg
from octvideo.data.labels import class_names
from octvideo.models import build_model
from octvideo.utils.errors import UserError
from octvideo.weights import zoo
from octvideo.weights.zoo import ZooEntry, list_pretrained, zoo_entries, zoo_entry
from support import ROOT

every_entry = pytest.mark.parametrize("entry", zoo_entries(), ids=lambda entry: entry.name)
TINY = {"depth": 14, "width_per_group": 4}


@every_entry
def test_name_and_configuration_are_the_same_network(entry):
    cfg = load_cfg(ROOT / "configs" / f"{entry.config}.yaml")
    with torch.device("meta"):
        by_cfg = build_model(cfg)
        classes = cfg.MODEL.NUM_CLASSES if entry.inflate else entry.num_classes
        by_name = octvideo.create_model(entry.model, classes, **entry.options)
    # What the shapes below do not tell:
    for name in ("arch", "octave", "num_frames", "sampling_rate", "crop_size"):
        assert getattr(by_cfg.spec, name) == getattr(by_name.spec, name), name
    if "_nln_" in entry.name:
        assert by_cfg.spec.non_local == by_name.spec.non_local
    shapes = {key: value.shape for key, value in by_cfg.state_dict().items()}
    assert shapes == {key: value.shape for key, value in by_name.state_dict().items()}
    assert (entry.num_frames, entry.sampling_rate) == (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE)
    assert (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) == (10, 3)
    assert (entry.num_clips, entry.num_crops) == (10, 3)
    assert entry.crop_size == cfg.DATA.TEST_CROP_SIZE


@every_entry
def test_entries_say_what_they_are(entry):
    assert zoo_entry(entry.name) is entry
    assert (entry.name in list_pretrained()) == (entry.address is not None)
    if entry.class_names:
        assert len(class_names(entry.class_names)) == entry.num_classes
    if entry.address:
        assert entry.address.startswith("https://dl.fbaipublicfiles.com/")


def test_the_page_is_up_to_date():
    page = (ROOT / "MODEL_ZOO.md").read_text()
    assert page == zoo_page(), "run tools/model_zoo.py"
    assert all(f"`{entry.name}`" in page for entry in zoo_entries())


# A zoo on this machine


@pytest.fixture
def local_zoo(tmp_path, monkeypatch):
    """Serves a folder; `add` puts a model's weights there, and an entry of the zoo for it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    files = tmp_path / "served"
    files.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=files))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("OCTVIDEO_CACHE", str(tmp_path / "cache"))

    def add(name, model, **fields):
        path = files / f"{name}.pyth"
        torch.save({"model_state": model.state_dict()}, path)
        options = {"num_classes": 5, "class_names": None, "num_frames": 8, **fields}
        entry = ZooEntry(
            name, "Kinetics/I3D_8x8_R50", "i3d_r50", "trained",
            options=TINY,
            address=f"http://127.0.0.1:{server.server_port}/{name}.pyth",
            **{"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **options},
        )  # fmt: skip
        monkeypatch.setitem(zoo._BY_NAME, name, entry)
        return entry

    yield add
    server.shutdown()
    server.server_close()
    thread.join()


def tiny(num_classes=5, **options):
    torch.manual_seed(3)
    return octvideo.create_model("i3d_r50", num_classes, **{**TINY, **options})


def same(a, b, without=()):
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[k], theirs[k]) for k in ours if not k.startswith(tuple(without)))


def test_weights_of_the_zoo(local_zoo, tmp_path):
    source = tiny()
    local_zoo("mine", source, sampling_rate=4, crop_size=64)
    model = octvideo.create_model("i3d_r50", pretrained="mine")
    assert same(model, source)
    assert (tmp_path / "cache" / "mine.pyth").is_file()
    assert (model.view_settings.sampling_rate, model.view_settings.crop_size) == (4, 64)
    assert not hasattr(model, "class_names")
    octave = octvideo.create_model("i3d_r50", octave_alpha=0.25, pretrained="mine")
    assert same(octave, source)
    assert octave.spec.octave.alpha == 0.25


def test_class_names_come_with_the_entry(local_zoo):
    local_zoo("k400", tiny(400), num_classes=400, class_names="kinetics400")
    model = octvideo.create_model("i3d_r50", pretrained="k400")
    assert model.class_names == class_names("kinetics400")


def test_other_classes_start_with_a_new_last_layer(local_zoo, caplog):
    source = tiny()
    local_zoo("mine", source)
    with caplog.at_level(logging.WARNING, "octvideo"):
        model = octvideo.create_model("i3d_r50", 7, pretrained="mine")
    assert "NEW LAST LAYER" in caplog.text
    assert model.head.projection.out_features == 7
    trunk = {k: v for k, v in source.state_dict().items() if not k.startswith("head.")}
    assert all(torch.equal(model.state_dict()[k], v) for k, v in trunk.items())
    assert not hasattr(model, "class_names")


def test_the_wrong_file_is_told_and_not_kept(local_zoo, tmp_path):
    local_zoo("mine", tiny(), sha256="1" * 64)
    with pytest.raises(UserError, match="SHA-256"):
        octvideo.create_model("i3d_r50", pretrained="mine")
    assert not (tmp_path / "cache" / "mine.pyth").exists()


def test_weights_of_another_model(local_zoo):
    local_zoo("mine", tiny())
    with pytest.raises(UserError, match="does not fit the model"):
        octvideo.create_model("c2d_r50", pretrained="mine", **TINY)


def test_weights_of_a_file(tmp_path):
    source = tiny(3)
    content = {"model_state": source.state_dict(), "class_names": ["a", "b", "c"]}
    torch.save(content, tmp_path / "a.pyth")
    model = octvideo.create_model("i3d_r50", pretrained=tmp_path / "a.pyth", **TINY)
    assert same(model, source)
    assert model.class_names == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["oct_i3d_8x8_k400", "i3d_8x8_r50", "nowhere/file.pyth"])
def test_nothing_to_load(name):
    with pytest.raises(UserError, match="i3d_8x8_r50_k400_pysf"):
        octvideo.create_model("i3d_r50", pretrained=name)


def test_predict_by_name(local_zoo, tmp_path):
    from octvideo.data.synthetic import make_synthetic

    make_synthetic(tmp_path / "set", num_train=1, num_val=0, num_test=0, seconds=(1, 1))
    [video] = (tmp_path / "set").rglob("*.mp4")
    local_zoo("mine", tiny(400, crop_size=64), num_classes=400, class_names="kinetics400",
              crop_size=64, num_clips=2)  # fmt: skip
    best = octvideo.predict(video, "mine", topk=3)
    assert len(best) == 3
    assert {label for label, _ in best} <= set(class_names("kinetics400"))
