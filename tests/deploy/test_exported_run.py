"""Exported files in place of a checkpoint: the same views and the same results."""

import dataclasses
import json
import os
import pickle
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch

import octvideo
from octvideo.cli.main import main
from octvideo.config import load_cfg
from octvideo.deploy.openvino_core import openvino_core
from octvideo.engine.checkpoint import CheckpointError
from octvideo.engine.test import run_test

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
PACKAGES = {
    "onnx": ("onnxscript", "onnxruntime"),
    "openvino": ("onnxscript", "openvino"),
    "pt2": (),
}
forms = ["onnx", *(pytest.param(f, marks=pytest.mark.slow) for f in ("openvino", "pt2"))]
every_format = pytest.mark.parametrize("form", forms)


@pytest.fixture(scope="module")
def trained(small):
    model = octvideo.load(small.checkpoint, cfg=small.cfg)
    model.protocol = octvideo.Protocol(8, 2, 72, num_clips=2)
    model.class_names = [f"action {label}" for label in range(8)]
    return model


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """The file of a format, written when it is first asked for."""
    folder, written = tmp_path_factory.mktemp("files"), {}

    def of(form, **options):
        for package in PACKAGES[form]:
            pytest.importorskip(package, reason=f"needs octvideo[{form}]")
        key = form, *options.items()
        if key not in written:
            path = folder / f"{len(written)}{SUFFIXES[form]}"
            octvideo.export(trained, path, form, **options)
            written[key] = path
        return written[key]

    return of


def test_only_openvino_computes_in_bf16(files, small):
    bf16 = dataclasses.replace(octvideo.Protocol(8, 2, 72, num_clips=2), precision="bf16")
    path, video = files("onnx"), small.videos[0]
    with pytest.raises(octvideo.UserError, match=f"{path.name}.*bf16"):
        octvideo.predict(video, octvideo.load(path), settings=bf16)
    path = files("openvino")
    model = octvideo.load(path)
    if "BF16" not in openvino_core("").get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(octvideo.UserError, match=f"{path.name}.*processor"):
            octvideo.predict(video, model, settings=bf16)
    else:
        found, want = (
            dict(octvideo.predict(video, model, topk=8, settings=s)) for s in (bf16, None)
        )
        assert 0 < max(abs(found[name] - want[name]) for name in want) < 0.02


@every_format
def test_predictions_and_features_are_the_models(form, files, trained, small):
    path = files(form, features=True)
    for video in small.videos[:2]:
        want = octvideo.predict(video, trained, topk=8)
        got = octvideo.predict(video, str(path), topk=8)
        assert [name for name, _ in got] == [name for name, _ in want]
        assert np.allclose([s for _, s in got], [s for _, s in want], atol=1e-5)
        features = octvideo.extract_features(video, str(path), per_view=True)
        expected = octvideo.extract_features(video, trained, per_view=True)
        assert np.abs(features - expected).max() < 1e-4 * np.abs(expected).max()


def test_pixels_come_back_for_a_file_that_takes_frames(files, trained, small):
    path = files("onnx", inputs="frames")
    [video, *_] = small.videos
    got, want = (dict(octvideo.predict(video, m, topk=8)) for m in (str(path), trained))
    assert max(abs(got[name] - want[name]) for name in want) < 0.01  # whole pixels


def test_the_command(files, small, capsys):
    path = files("onnx", features=True)
    assert main(["predict", "--checkpoint", str(path), "--json", small.videos[0]]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert [tuple(score) for score in scores] == octvideo.predict(small.videos[0], str(path))
    assert main(["predict", "--checkpoint", str(path), "--device", "cuda", small.videos[0]]) == 2


def settings(small, path, folder):
    opts = {"TEST.CHECKPOINT_FILE_PATH": path, "OUTPUT_DIR": folder, "TRAIN.ENABLE": False,
            "TEST.SAVE_RESULTS_PATH": folder / "scores.pkl", "NUM_GPUS": 0}  # fmt: skip
    return [*small.opts, *(str(word) for pair in opts.items() for word in pair)]


@every_format
def test_a_test_of_all_views(form, files, small, tmp_path):
    """With the views and the results of the checkpoint."""
    tables = []
    for path in (small.checkpoint, files(form)):
        folder = tmp_path / path.suffix[1:]
        folder.mkdir()
        stats = run_test(load_cfg(small.cfg, settings(small, path, folder)))
        assert stats["checkpoint"] == str(path)
        with open(folder / "scores.pkl", "rb") as file:
            tables.append(pickle.load(file)[0])
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-4)


@pytest.mark.parametrize(
    "opts", [["DATA.TEST_CROP_SIZE", "80"], ["OCTAVE.ALPHA", "0.5"], ["MODEL.NUM_CLASSES", "9"]]
)
def test_a_test_of_another_network(opts, files, small, tmp_path):
    cfg = load_cfg(small.cfg, [*settings(small, files("onnx"), tmp_path), *opts])
    with pytest.raises(CheckpointError, match=opts[0]):
        run_test(cfg)


def test_clips_of_another_length(files):
    network = octvideo.load(files("onnx"))
    with pytest.raises(octvideo.UserError, match="8 frames"):
        network(torch.zeros(1, 3, 4, 72, 72))


def test_a_file_without_features(files, small):
    with pytest.raises(octvideo.UserError, match="features=True"):
        octvideo.extract_features(small.videos[0], str(files("onnx")))


@every_format
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "missing"])
def test_damaged_files(form, damage, files, tmp_path):
    source = files(form)
    path = tmp_path / source.name
    content = source.read_bytes()
    middle = len(content) // 2
    changed = {
        "truncated": content[:middle],
        "flipped": content[:200] + bytes(255 - b for b in content[200:400]) + content[400:],
        "empty": b"",
        "text": b"no network at all\n" * 100,
    }
    if damage != "missing":
        path.write_bytes(changed[damage])
    if form == "openvino":
        shutil.copy(source.with_suffix(".bin"), tmp_path)
    with pytest.raises(octvideo.UserError, match=path.name):
        octvideo.load(path)


@pytest.mark.parametrize(
    "suffix",
    [
        ".onnx",
        *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".xml", ".bin", ".pt2")),
    ],
)
def test_one_changed_bit_of_the_weights(suffix, files, tmp_path):
    """A network with other weights runs as well: its runtime does not notice."""
    form = {".bin": "openvino"}.get(suffix) or next(f for f, s in SUFFIXES.items() if s == suffix)
    source = files(form)
    for file in (source, source.with_suffix(".bin")) if form == "openvino" else (source,):
        shutil.copy(file, tmp_path)
    octvideo.load(tmp_path / source.name)
    path = (tmp_path / source.name).with_suffix(suffix)
    content = bytearray(path.read_bytes())
    number = content.find(b'pads_begin="') + len(b'pads_begin="')
    content[number if suffix == ".xml" else len(content) * 2 // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(octvideo.UserError, match="damaged"):
        octvideo.load(tmp_path / source.name)


def test_a_foreign_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(n, 1, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(octvideo.UserError, match=r"octvideo\.export"):
        octvideo.load(tmp_path / "foreign.onnx")


class Code:
    def __reduce__(self):
        return os.system, ("touch hit",)


@pytest.mark.parametrize("place", ["inputs", "weights", "operation", "size", "library"])
def test_a_hostile_pt2_runs_nothing(place, trained, tmp_path, monkeypatch):
    """torch.export.load itself would unpickle, evaluate and import what it is given."""
    monkeypatch.chdir(tmp_path)
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(2, 3),))
    torch.export.save(program, tmp_path / "good.pt2", extra_files={"octvideo": "{}"})
    with pytest.raises(octvideo.UserError, match="record"):  # nothing else is wrong with it
        octvideo.load(tmp_path / "good.pt2")
    path = tmp_path / "bad.pt2"
    with zipfile.ZipFile("good.pt2") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if place == "inputs" and "sample_inputs" in name:
                content = pickle.dumps(Code())
            if place == "weights" and name.endswith("weights_config.json"):
                content = b'{"config": {"w": {"path_name": "weight_0", "use_pickle": true}}}'
            if place == "operation" and "models/" in name:
                content = content.replace(b"torch.ops.aten.relu.default", b"torch.hub.load")
            if place == "size" and "models/" in name:
                hostile = b'{"range_constraints": {"expr_str": "__import__(1)"}, '
                content = hostile + content.removeprefix(b"{")
            bad.writestr(name, content)
        if place == "library":
            bad.writestr("good/data/aotinductor/model/a.so", b"")
    with pytest.raises(octvideo.UserError, match=r"bad\.pt2"):
        octvideo.load(path)
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_is_named(form, package, tmp_path, monkeypatch):
    path = tmp_path / f"m{SUFFIXES[form]}"
    path.touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(octvideo.UserError, match=package):
        octvideo.load(path)
