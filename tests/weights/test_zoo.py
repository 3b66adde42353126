"""The zoo: its table, its page, and models with weights from a server on this machine."""

import hashlib
import logging
import re
import socket
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from authors import authors_arrays
from mxnet_reference import reference_logits
from mxnet_writer import write_mxnet
from resnet2d import random_resnet2d

import octvideo
from octvideo.api import loading
from octvideo.config import load_cfg
from octvideo.data.labels import class_names
from octvideo.data.synthetic.scenes import ACTIONS, render_clip
from octvideo.data.synthetic.videos import write_video
from octvideo.models import build_model
from octvideo.models.build import IMAGE_MODELS
from octvideo.utils.errors import UserError
from octvideo.weights import zoo
from octvideo.weights.download import cached_path
from octvideo.weights.names.torchvision import torchvision_names
from octvideo.weights.zoo import ZooEntry, list_pretrained, zoo_entries, zoo_entry
from studies.zoo_page import zoo_page
from support import ROOT

every_entry = pytest.mark.parametrize("entry", zoo_entries(), ids=lambda entry: entry.name)
TINY = {"depth": 14, "width_per_group": 4}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(
            entry, marks=[pytest.mark.slow] * bool(re.search("101|152|200|densenet", entry.name))
        )
        for entry in zoo_entries()
    ],
    ids=lambda entry: entry.name,
)
def test_name_and_configuration_are_the_same_network(entry):
    cfg = load_cfg(ROOT / "configs" / f"{entry.config}.yaml")
    with torch.device("meta"):
        by_cfg = build_model(cfg)
        classes = cfg.MODEL.NUM_CLASSES if entry.inflate else entry.num_classes
        by_name = octvideo.create_model(entry.model, classes, **entry.options)
    # What the shapes below do not tell:
    for name in ("octave", "num_frames", "sampling_rate", "crop_size"):
        assert getattr(by_cfg.spec, name) == getattr(by_name.spec, name), name
    assert getattr(by_cfg.spec, "arch", None) == getattr(by_name.spec, "arch", None)
    if "_nln_" in entry.name:
        assert by_cfg.spec.non_local == by_name.spec.non_local
    shapes = {key: value.shape for key, value in by_cfg.state_dict().items()}
    assert shapes == {key: value.shape for key, value in by_name.state_dict().items()}
    assert entry.num_frames == cfg.DATA.NUM_FRAMES
    assert entry.crop_size == cfg.DATA.TEST_CROP_SIZE
    if entry.is_image_network:  # one crop, whatever TEST.NUM_ENSEMBLE_VIEWS says
        assert by_cfg.spec == by_name.spec
        assert (list(entry.mean), list(entry.std)) == (cfg.DATA.MEAN, cfg.DATA.STD)
        assert (entry.num_clips, entry.num_crops) == (1, 1)
        return
    assert entry.sampling_rate == cfg.DATA.SAMPLING_RATE
    assert (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) == (10, 3)
    assert (entry.num_clips, entry.num_crops) == (10, 3)


@every_entry
def test_entries_say_what_they_are(entry):
    assert zoo_entry(entry.name) is entry
    assert (entry.name in list_pretrained()) == (entry.address is not None)
    if entry.class_names:
        assert len(class_names(entry.class_names)) == entry.num_classes
    if entry.is_packaged:
        file = zoo.PACKAGED / entry.address
        assert file.stat().st_size < 2**20
        assert hashlib.sha256(file.read_bytes()).hexdigest() == entry.sha256
    elif entry.address:
        assert entry.address.startswith("https://dl.fbaipublicfiles.com/")


def test_networks_that_come_with_octvideo_know_their_actions(tmp_path, monkeypatch):
    """Without a download, and on clips of another seed than they were trained on."""
    monkeypatch.setenv("OCTVIDEO_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(socket, "socket", None)
    right = dict.fromkeys(("i3d_synthetic", "oct_i3d_synthetic", "c2d_synthetic"), 0)
    models = {name: octvideo.load(name) for name in right}
    for index, action in enumerate(ACTIONS):
        path = tmp_path / f"{action}.mp4"
        write_video(path, render_clip([99, index], action, 50, 64, 80, 25), 25)
        for name, model in models.items():
            [(label, _)] = octvideo.predict(path, model, topk=1)
            right[name] += label == action
    assert right["i3d_synthetic"] >= 7
    assert right["oct_i3d_synthetic"] >= 7
    assert right["c2d_synthetic"] < 7
    assert models["oct_i3d_synthetic"].spec.octave.alpha == 0.25
    assert not (tmp_path / "none").exists()


def test_the_page_is_up_to_date():
    page = (ROOT / "MODEL_ZOO.md").read_text()
    assert page == zoo_page(), "run tools/model_zoo.py"
    assert all(f"`{entry.name}`" in page for entry in zoo_entries())


# The networks of the paper's authors


def test_the_authors_networks_are_there():
    """Their README has 25 networks of the ablation and 6 others."""
    entries = [entry for entry in zoo_entries() if entry.is_image_network]
    addresses = [entry.address for entry in entries]
    assert sum("/ablation/a0" in address for address in addresses) == 25
    assert sum("/others/" in address for address in addresses) == 6
    assert len(set(addresses)) == len(addresses) == 31
    for entry in entries:
        assert entry.model in IMAGE_MODELS
        stem = entry.address.rpartition("alpha-")[2].rpartition(".")[0]
        assert float(stem) == entry.options["octave_alpha"]


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("mobilenet_v1_075_alpha-0.375", "oct_mobilenet_v1_075_a0.375_in1k_mxnet"),
        pytest.param(
            *("resnet-26_alpha-0.250", "oct_resnet26_v2_a0.25_in1k_mxnet"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_file_of_the_authors_by_name(network, name, tmp_path, monkeypatch):
    """From the file in its place in the cache, put there by hand: no network is needed."""
    entry = replace(zoo_entry(name), sha256=None)
    monkeypatch.setitem(zoo._BY_NAME, name, entry)
    monkeypatch.setenv("OCTVIDEO_CACHE", str(tmp_path / "cache"))
    path = cached_path(entry.address)
    path.parent.mkdir(parents=True)
    arrays = authors_arrays(network)
    write_mxnet(tmp_path / "checkpoint-0-0000.params", arrays)
    if path.suffix == ".tar":
        with tarfile.open(path, "w:") as archive:
            archive.add(tmp_path / "checkpoint-0-0000.params", "a/checkpoint-0-0000.params")
    else:
        (tmp_path / "checkpoint-0-0000.params").rename(path)
    model = octvideo.create_model(entry.model, pretrained=name, head_activation="none").eval()
    assert model.spec.octave.alpha == entry.options["octave_alpha"]
    assert model.protocol.mean == entry.mean
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = reference_logits(network, arrays, images)
        torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-4)
    other = octvideo.create_model(entry.model, 7, pretrained=path, **entry.options)
    assert other.head.projection.out_features == 7


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
        common = {"num_classes": 5, "class_names": None, "num_frames": 8, "options": TINY}
        entry = ZooEntry(
            name, "Kinetics/I3D_8x8_R50", "i3d_r50", "trained",
            address=f"http://127.0.0.1:{server.server_port}/{name}.pyth",
            **{**common, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **fields},
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
    (cached,) = (tmp_path / "cache").rglob("mine.pyth")
    assert cached.is_file()
    assert (model.protocol.sampling_rate, model.protocol.crop_size) == (4, 64)
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
    assert not list((tmp_path / "cache").rglob("mine.pyth"))


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "oct_i3d_8x8_k400",
            r"Kinetics/OCT_I3D_8x8.yaml, .* octvideo.list_pretrained\(\)$",
        ),
        ("I3D_8x8_R50_k400_pyfs", r"did you mean i3d_8x8_r50_k400_pysf or .*list_pretrained\(\)"),
        ("file.pyth", r"no file of that name\. octvideo.list_pretrained\(\) and"),
    ],
)
def test_nothing_to_load(name, message):
    with pytest.raises(UserError, match=message) as caught:
        octvideo.create_model("i3d_r50", pretrained=name)
    assert len(str(caught.value)) < 300


def test_a_name_of_weights_is_no_name_of_a_network():
    name = "i3d_8x8_r50_k400_pysf"
    with pytest.raises(UserError, match=rf"create_model\('i3d_r50', pretrained='{name}'\)"):
        octvideo.create_model(name)


def test_a_path_that_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent.pyth"):
        with pytest.raises(UserError, match=f"there is no checkpoint {path}$"):
            octvideo.create_model("i3d_r50", pretrained=path)


def test_an_entry_that_is_octave(local_zoo):
    source = tiny(octave_alpha=0.25)
    local_zoo("mine", source, options={**TINY, "octave_alpha": 0.25})
    for model in (octvideo.create_model("i3d_r50", pretrained="mine"), loading.load_zoo("mine")):
        assert model.spec.octave.alpha == 0.25
        assert same(model, source)
    vanilla = octvideo.create_model("i3d_r50", octave_alpha=0.0, pretrained="mine")
    assert vanilla.spec.octave.alpha == 0
    assert octvideo.create_model("i3d_r50", 5, **TINY).spec.octave.alpha == 0


def test_a_download_that_is_no_checkpoint(local_zoo):
    entry = local_zoo("mine", tiny(), sha256=None)
    page = cached_path(entry.address)
    page.parent.mkdir(parents=True)
    page.write_text("<html>log in first</html>")
    with pytest.raises(UserError, match=rf"<html>.*came from {entry.address} and was removed"):
        octvideo.create_model("i3d_r50", pretrained="mine")
    assert same(octvideo.create_model("i3d_r50", pretrained="mine"), tiny())


def test_networks_of_pictures(local_zoo, tmp_path):
    network = random_resnet2d(width=4)
    c2d = octvideo.create_model("c2d_r50", 5, width_per_group=4)
    names = torchvision_names(network.state_dict())
    flat = {names[key]: value for key, value in network.state_dict().items()}
    torch.save({"model_state": flat}, tmp_path / "R50_IN1K.pyth")  # PySlowFast's own
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    for file in ("R50_IN1K.pyth", "resnet50.pth"):
        model = octvideo.create_model("c2d_r50", pretrained=tmp_path / file, width_per_group=4)
        assert model.head.projection.out_features == 400
        assert torch.equal(model.s1.pathway0_stem.conv.weight.squeeze(2), network.conv1.weight)
        assert not hasattr(model, "protocol")
    assert {k: v.numel() for k, v in flat.items()} == {
        k: v.numel() for k, v in c2d.state_dict().items()
    }
    with pytest.raises(UserError, match="no 2D network has the shapes of a SlowFast network"):
        octvideo.create_model(
            "slowfast_r50", pretrained=tmp_path / "resnet50.pth", width_per_group=8
        )
    with pytest.raises(UserError, match="r50_in1k_pysf is a network of pictures"):
        loading.load_zoo("r50_in1k_pysf")


def test_predict_by_name(local_zoo, tmp_path):
    from octvideo.data.synthetic.videos import make_synthetic

    make_synthetic(tmp_path / "set", num_train=1, num_val=0, num_test=0, seconds=(1, 1))
    [video] = (tmp_path / "set").rglob("*.mp4")
    local_zoo("mine", tiny(400, crop_size=64), num_classes=400, class_names="kinetics400",
              crop_size=64, num_clips=2)  # fmt: skip
    best = octvideo.predict(video, "mine", topk=3)
    assert len(best) == 3
    assert {label for label, _ in best} <= set(class_names("kinetics400"))
