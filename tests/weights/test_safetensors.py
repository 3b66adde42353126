"""2D networks as timm publishes them: files that the safetensors package writes."""

import sys

import pytest
import torch
from resnet2d import random_resnet2d
from zoo_files import tiny

from octvideo.weights import CheckpointError, load_into, read_weights

save_file = pytest.importorskip("safetensors.torch", reason="needs the extra safetensors").save_file


@pytest.fixture
def network():
    return random_resnet2d(seed=3)


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(network.state_dict(), path, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("kind", ["auto", "pytorch", "torchvision"])
def test_the_same_as_a_file_of_torch(network, file, tmp_path, kind):
    torch.save(network.state_dict(), tmp_path / "model.pth")
    models = [tiny(seed=5), tiny(seed=6, octave_alpha=0.25)]
    for model, path in zip(models, (tmp_path / "model.pth", file), strict=True):
        weights = read_weights(path, kind)
        assert weights.kind == "torchvision"
        load_into(model, weights, inflate=True)
    for key, value in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[key], value), key


def test_our_own_names(tmp_path):
    source, model = tiny(seed=1), tiny(seed=2)
    save_file(source.state_dict(), tmp_path / "m.safetensors")
    load_into(model, read_weights(tmp_path / "m.safetensors"))
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_files_that_are_cut_or_lie(file):
    data = file.read_bytes()
    for bad in (data[: len(data) // 2], data[:100], data[:8] + b"{" + data[9:200], data + b"x"):
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            read_weights(file)
    file.write_bytes((2**62).to_bytes(8, "little") + data[8:])
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_weights(file)


def test_another_kind(file):
    with pytest.raises(CheckpointError, match="of kind pytorch, not caffe2"):
        read_weights(file, "caffe2")


def test_without_the_package(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError, match=r"pip install .*safetensors"):
        read_weights(file)
