"""Files that `octvideo.export` writes, run in their runtimes without octvideo."""

import collections
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import octvideo
from octvideo.cli.main import main
from octvideo.data.transforms import normalize
from support import liven

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
PACKAGES = {
    "onnx": ("onnxscript", "onnxruntime"),
    "openvino": ("onnxscript", "openvino"),
    "pt2": (),
}
every_format = pytest.mark.parametrize(
    "form", ["onnx", *(pytest.param(form, marks=pytest.mark.slow) for form in ("openvino", "pt2"))]
)


def exported(tmp_path, form, model, **options):
    for package in PACKAGES[form]:
        pytest.importorskip(package, reason=f"needs octvideo[{form}]")
    path = tmp_path / f"model{SUFFIXES[form]}"
    difference = octvideo.export(model, path, form, **options)
    assert difference < 1e-4
    return path


def run(path, *inputs):
    """The outputs of a file, by the runtime's own interface."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [value.name for value in session.get_inputs()]
        return session.run(None, dict(zip(names, inputs, strict=True)))
    if path.suffix == ".xml":
        import openvino

        results = openvino.Core().compile_model(path, "CPU")(inputs)
        return [results[i] for i in range(len(results))]
    found = torch.export.load(path).module()(*map(torch.from_numpy, inputs))
    return [y.numpy() for y in (found if isinstance(found, (list, tuple)) else [found])]


def inputs_for(model):
    """Two normalised clips (or images) of 64x64."""
    time = () if model.spec.is_image else (model.spec.num_frames,)
    return torch.randn(2, 3, *time, 64, 64)


def check(got, want):
    want = want.numpy()
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


@every_format
def test_frames_in_logits_and_features_out(form, narrow, tmp_path):
    """Whoever runs the file has nothing to re-implement."""
    path = exported(tmp_path, form, narrow, inputs="frames", logits=True, features=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 64, 64, 3), dtype=np.uint8)
    logits, features = run(path, pixels)
    protocol = narrow.protocol
    clips = normalize(torch.from_numpy(pixels).permute(0, 4, 1, 2, 3), protocol.mean, protocol.std)
    with torch.no_grad():
        maps = narrow.forward_features(clips)
        check(features, narrow.forward_head(maps, pre_logits=True))
        check(torch.from_numpy(logits).softmax(1).numpy(), narrow(clips))  # at one position
    assert sorted(os.listdir(tmp_path)) == sorted(
        {path.name, *([path.with_suffix(".bin").name] if form == "openvino" else [])}
    )


@every_format
@pytest.mark.parametrize("inputs", ["clips", pytest.param("pathways", marks=pytest.mark.slow)])
def test_slowfast(form, inputs, tmp_path):
    torch.manual_seed(0)
    options = {"depth": 14, "width_per_group": 32, "crop_size": 64, "num_frames": 16}
    model = liven(octvideo.create_model("slowfast_4x16_r50", 5, 0.25, **options))
    path = exported(tmp_path, form, model, inputs=inputs)
    clips = torch.randn(2, 3, 16, 64, 64)
    slow = clips[:, :, [0, 15]]
    given = [slow, clips] if inputs == "pathways" else [clips]
    with torch.no_grad():
        check(run(path, *(x.numpy() for x in given))[0], model(clips))


# Of 70 pixels some maps have odd sides.
@pytest.mark.parametrize("crop", [pytest.param(64, marks=pytest.mark.slow), 70])
def test_the_onnx_graph_has_few_nodes(crop, narrow, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs octvideo[onnx]")
    path = exported(tmp_path, "onnx", narrow, crop_size=crop)
    graph = onnx.load(path).graph
    kinds = collections.Counter(node.op_type for node in graph.node)
    layers = ("Conv", "Relu", "Add", "MaxPool", "AveragePool", "Concat", "Resize", "MatMul", "Gemm")
    assert len(graph.node) <= 1.5 * sum(kinds[kind] for kind in layers)
    assert not kinds.keys() & {"Shape", "Gather", "Expand", "Unsqueeze", "Constant"}
    assert onnx.load(path).opset_import[0].version == 18


NETWORKS: dict[str, dict[str, int]] = {
    "resnet26_v2": {},
    "x3d_xs": {},
    "c2d_nln_r50": {},
    "mobilenet_v2_100": {},
    "r2plus1d_r50": {"depth": 14, "width_per_group": 8, "num_frames": 4},
    "csn_r101": {"depth": 14, "width_per_group": 8, "num_frames": 8},
}


@pytest.mark.slow
@every_format
@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks(form, name, tmp_path):
    torch.manual_seed(0)
    model = liven(octvideo.create_model(name, 5, 0.25, crop_size=64, **NETWORKS[name]))
    path, x = exported(tmp_path, form, model, crop_size=64), inputs_for(model)
    with torch.no_grad():
        check(run(path, x.numpy())[0], model(x))


@pytest.mark.slow
@every_format
@pytest.mark.parametrize("name", ["torchvision/resnet18", "pytorchvideo/slow_r50"])
def test_networks_of_other_projects(form, name, tmp_path):
    for package in (name.partition("/")[0], "torchvision"):  # PyTorchVideo imports it, too
        pytest.importorskip(package, reason="needs octvideo[torchvision], octvideo[pytorchvideo]")
    torch.manual_seed(0)
    model = octvideo.create_model(name, 5, 0.25, crop_size=64).eval()
    path, x = exported(tmp_path, form, model, crop_size=64, logits=True), inputs_for(model)
    with torch.no_grad():
        check(torch.from_numpy(run(path, x.numpy())[0]).softmax(1).numpy(), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["i3d_r14", "resnet26_v2"])
def test_any_size(form, name, tmp_path):
    torch.manual_seed(0)
    model = liven(octvideo.create_model(name, 5, 0.25, crop_size=64)).eval()
    inputs = "frames" if name == "i3d_r14" else "clips"
    path = exported(tmp_path, form, model, crop_size=64, dynamic_size=True, inputs=inputs)
    frames = model.spec.num_frames
    time = () if model.spec.is_image else (frames,)
    clips = torch.randn(1, 3, *time, 81, 160)
    loaded = octvideo.load(path)
    if inputs == "clips":
        with torch.no_grad():
            check(run(path, clips.numpy())[0], model(clips))
            check(loaded(clips).numpy(), model(clips))
    with pytest.raises(octvideo.UserError, match="64x63"):
        loaded(torch.zeros(1, 3, *time, 64, 63))


@pytest.mark.slow
def test_a_graph_of_one_size_is_refused(tmp_path):
    """Some graphs cannot be written for any size, as those of non-local blocks."""
    pytest.importorskip("onnxscript", reason="needs octvideo[onnx]")
    options = {"crop_size": 64, "width_per_group": 8, "num_frames": 4}
    model = liven(octvideo.create_model("c2d_nln_r50", 5, 0.25, **options)).eval()
    with pytest.raises(octvideo.UserError, match="dynamic_size"):
        octvideo.export(model, tmp_path / "c2d.onnx", crop_size=64, dynamic_size=True)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_an_optimised_network(narrow, tmp_path):
    path = exported(tmp_path, "onnx", octvideo.optimize_for_inference(narrow))
    x = inputs_for(narrow)
    with torch.no_grad():
        check(run(path, x.numpy())[0], narrow(x))


@every_format
def test_a_file_that_differs_gets_no_name(form, narrow, tmp_path):
    for package in PACKAGES[form]:
        pytest.importorskip(package)
    with pytest.raises(octvideo.UserError, match="tolerance"):
        octvideo.export(narrow, tmp_path / f"model{SUFFIXES[form]}", tolerance=0)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("model.tflite", {}, ("onnx", "openvino", "pt2")),
        ("model.pt2", {"dynamic_size": True}, ("model.pt2", "onnx")),
        ("model.onnx", {"format": "pt2"}, ("model.onnx", "pt2")),
        ("model.onnx", {"format": "coreml"}, ("coreml", "onnx")),
        ("file/model.onnx", {}, ("file",)),
        ("model.onnx", {"inputs": "pathways"}, ("SlowFast",)),
        ("model.onnx", {"inputs": "sound"}, ("sound", "frames")),
        ("model.onnx", {"crop_size": -7}, ("-7", "crop_size")),
    ],
)
def test_wrong_use(path, options, words, narrow, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(octvideo.UserError) as error:
        octvideo.export(narrow, tmp_path / path, **options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Conv3d(3, 4, 1), ("(1, 4, 4, 64, 64)", "classes")),
        (nn.LSTM(64, 4), ("LSTM", "(1, 3, 4, 64, 64)", "settings=")),
        (nn.Conv2d(3, 4, 1), ("Conv2d", "centre_crop")),
    ],
)
def test_networks_without_scores_of_such_clips(network, words, tmp_path):
    with pytest.raises(octvideo.UserError) as error:
        octvideo.export(network, tmp_path / "n.onnx", settings=octvideo.Protocol(4, 2, 64))
    assert all(word in str(error.value) for word in words)
    assert not [*tmp_path.iterdir()]


def test_half_is_refused(narrow, tmp_path):
    half = octvideo.optimize_for_inference(narrow, torch.bfloat16)
    with pytest.raises(octvideo.UserError, match="float32"):
        octvideo.export(half, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("suffix", "package", "extra"),
    [(".onnx", "onnxscript", "onnx"), (".xml", "openvino", "openvino")],
)
def test_a_missing_package_is_named(suffix, package, extra, narrow, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(octvideo.UserError, match=extra):
        octvideo.export(narrow, tmp_path / f"model{suffix}")
    assert not [*tmp_path.iterdir()]


def test_the_command(small, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="needs octvideo[onnx]")
    onnx = pytest.importorskip("onnx", reason="needs octvideo[onnx]")
    path = tmp_path / "small.onnx"
    words = ["--cfg", str(small.cfg), "--checkpoint", str(small.checkpoint), str(path)]
    assert main(["export", *words, "--licence", "CC0", "--opts", *small.opts]) == 0
    assert str(path) in capsys.readouterr().out
    [record] = [p.value for p in onnx.load(path).metadata_props if p.key == "octvideo"]
    record = json.loads(record)
    assert record["input_shape"] == ["batch", 3, small.model.spec.num_frames, 72, 72]
    assert record["source"] == small.checkpoint.name
    assert (record["licence"], record["octave_alpha"]) == ("CC0", small.model.spec.octave.alpha)
    assert main(["export", *words[:4], str(tmp_path / "small.txt")]) == 2


TWO_NETWORKS = """
import os, signal, sys
from octvideo.deploy import open_exported
first, second = (open_exported(path) for path in sys.argv[1:])
del first
del second  # in the order in which they came
received = []
signal.signal(signal.SIGINT, lambda *_: received.append(1))
os.kill(os.getpid(), signal.SIGINT)
print(len(received))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_signals_are_received_after_openvino(narrow, tmp_path):
    """Each Core of OpenVINO gives the thread a stack for signals, and may leave it without one."""
    path = exported(tmp_path, "openvino", narrow)
    command = [sys.executable, "-X", "faulthandler", "-c", TWO_NETWORKS, path, path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
