"""Exported networks in int8."""

import copy
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import octvideo
from octvideo.cli.main import main
from octvideo.data.synthetic.videos import make_synthetic
from octvideo.deploy import open_exported
from octvideo.deploy.int8 import int8_layers

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
every_format = pytest.mark.parametrize(
    "form", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def trained(small):
    model = octvideo.load(small.checkpoint, cfg=small.cfg)
    model.protocol = octvideo.Protocol(8, 2, 72, num_clips=1, num_crops=1)
    model.class_names = [f"action {label}" for label in range(8)]
    return model


@pytest.fixture(scope="module")
def files(trained, small, tmp_path_factory):
    """(float file, int8 file, report) of a format, made when it is first asked for."""
    folder, written = tmp_path_factory.mktemp("int8"), {}

    def of(form):
        packages = {"onnx": "onnxruntime", "openvino": "openvino"}
        for package in ("nncf", "onnxscript", packages[form]):
            pytest.importorskip(package, reason=f"needs octvideo[{form}], octvideo[int8]")
        if form not in written:
            source, path = (folder / f"{n}{SUFFIXES[form]}" for n in ("float", "whole"))
            octvideo.export(trained, source, features=True)
            report = octvideo.quantize(source, path, small.videos, clips=8, max_drop=100)
            written[form] = source, path, report
        return written[form]

    return of


@pytest.mark.slow
def test_weights_are_the_float_ones_to_half_a_step(files):
    """Each channel has its scale, and no more than 7 bits, which add without overflow."""
    source, path, _ = files("onnx")
    onnx = pytest.importorskip("onnx")
    graphs = [onnx.load(file).graph for file in (source, path)]
    values = [
        {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer} for graph in graphs
    ]
    layers = [{n.name: n for n in graph.node if n.op_type == "Conv"} for graph in graphs]
    makers = {name: node for node in graphs[1].node for name in node.output}
    assert layers[0].keys() == layers[1].keys()
    assert sum(node.op_type == "QuantizeLinear" for node in graphs[1].node) >= len(layers[1])
    for name, node in layers[1].items():
        want = values[0][layers[0][name].input[1]]
        stored, scale, *_ = (values[1][key] for key in makers[node.input[1]].input)
        assert stored.dtype == np.int8
        assert np.abs(stored.astype(int)).max() <= 64
        assert scale.shape == want.shape[:1]
        step = scale.reshape(-1, *[1] * (want.ndim - 1))
        assert (np.abs(stored * step - want) <= step * 0.501).all()


@every_format
def test_the_file_works_like_any_other(form, files, small):
    source, path, report = files(form)
    record = open_exported(path).record
    assert record.precision == "int8"
    assert replace(record, precision="fp32") == open_exported(source).record
    assert report.int8_layers == report.layers == int8_layers(path)[1]
    assert int8_layers(source) == (0, report.layers)
    video = small.videos[0]
    got, want = (dict(octvideo.predict(video, str(file), topk=8)) for file in (path, source))
    assert max(abs(got[name] - want[name]) for name in want) < 0.2
    features, wanted = (octvideo.extract_features(video, str(file)) for file in (path, source))
    assert np.abs(features - wanted).max() < 0.2 * np.abs(wanted).max()
    assert (features != wanted).any()


@pytest.mark.slow
@every_format
def test_the_same_files_give_the_same_network(form, files, small, tmp_path):
    source, path, report = files(form)
    again = tmp_path / path.name
    assert octvideo.quantize(source, again, small.videos, clips=8, max_drop=100) == report
    data = {"onnx": "", "openvino": ".bin"}[form]
    paths = [p.with_suffix(data) if data else p for p in (path, again)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def spoiled(model: torch.nn.Module) -> torch.nn.Module:
    """Scales one channel between two layers up and down again: the same function in float."""
    model = copy.deepcopy(model)
    branch = model.s4.pathway0_res0.branch2
    with torch.no_grad():
        for value in (branch.b_bn.weight, branch.b_bn.bias):
            value[0] *= 3000
        branch.c.weight[:, 0] /= 3000
    return model


@pytest.mark.slow
def test_sensitive_layers_stay_in_float(trained, small, tmp_path):
    """In int8, the outputs of one layer have a step larger than all but one of its channels."""
    for package in ("nncf", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs octvideo[onnx,int8]")
    source, path = tmp_path / "float.onnx", tmp_path / "whole.onnx"
    octvideo.export(spoiled(trained), source)
    report = octvideo.quantize(source, path, small.videos, clips=8, max_drop=10)
    assert report.all_layers < report.before - 10 <= report.after
    assert 0 < report.int8_layers < report.layers
    assert int8_layers(path) == (report.int8_layers, report.layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["i3d_synthetic", "oct_i3d_synthetic"])
def test_accuracy_of_trained_networks(name, tmp_path, capsys):
    pytest.importorskip("nncf", reason="needs octvideo[int8]")
    make_synthetic(tmp_path / "data", num_train=4, num_val=1, num_test=4, seed=3)
    source, path = tmp_path / "float.onnx", tmp_path / "whole.onnx"
    octvideo.export(name, source)
    words = ["--list", tmp_path / "data/train.csv", "--test", tmp_path / "data/test.csv"]
    words = ["quantize", source, path, *words, "--fast", "--json", "--max-drop", "4"]
    assert main([str(word) for word in words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "accuracy"
    assert report["before"] >= 90
    assert report["before"] - report["after"] <= 4
    assert report["megabytes"] < 0.5 * report["megabytes_before"]


def test_wrong_use(files, small, tmp_path, monkeypatch):
    source, path, _ = files("onnx")
    for given, target, word in [
        (path, tmp_path / "a.onnx", "int8 already"),
        (source, tmp_path / "a.xml", "onnx"),
    ]:
        with pytest.raises(octvideo.UserError, match=word):
            octvideo.quantize(given, target, small.videos[:2], clips=1)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(octvideo.UserError, match="int8"):
        octvideo.quantize(source, tmp_path / "a.onnx", small.videos[:2], clips=1)
    assert not [*tmp_path.iterdir()]
