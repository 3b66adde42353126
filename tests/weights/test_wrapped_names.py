"""Checkpoints as training programs wrap them: other keys, prefixes, and arguments beside them."""

import argparse
import datetime
import os
import pathlib
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from resnet2d import random_resnet2d
from torch import nn
from torch.optim.swa_utils import AveragedModel
from zoo_files import tiny, write_pytorchvideo

import octvideo
from octvideo.api.loading import load_trained
from octvideo.weights import CheckpointError, load_into, read_weights
from support import ROOT, load_tool


def convert(arguments):
    return load_tool("convert_checkpoint").main(arguments)


@pytest.fixture(scope="module")
def source():
    return tiny(seed=1)


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def assert_holds(path, source, **options):
    state, wanted = read_weights(path, **options).state, source.state_dict()
    assert state.keys() == wanted.keys()
    for key, value in state.items():
        assert torch.equal(value, wanted[key]), key


PREFIXES = (
    *("module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."),
    *("model.", "backbone.", "network.", "net.", "model.backbone.", "encoder.model.", "0."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(source, tmp_path, prefix, caplog):
    torch.save({"state_dict": prefixed(prefix, source.state_dict())}, tmp_path / "m.ckpt")
    with caplog.at_level("INFO", "octvideo"):
        assert_holds(tmp_path / "m.ckpt", source)
    assert "'state_dict'" in caplog.text
    assert f"weight {prefix}s1" in caplog.text.replace("the weight", "weight")


def test_prefixes_as_torch_writes_them(source, tmp_path):
    """Of torch.compile around a network and around one stage, of an average, of DataParallel."""
    wrapped = tiny(seed=1)
    wrapped.s3 = torch.compile(wrapped.s3)
    models = [torch.compile(nn.DataParallel(source)), wrapped, AveragedModel(source)]
    assert any("_orig_mod" in key for key in wrapped.state_dict())
    assert "n_averaged" in models[2].state_dict()
    for model in models:
        torch.save({"model_ema": model.state_dict(), "epoch": 3}, tmp_path / "m.pth")
        assert_holds(tmp_path / "m.pth", source)


@pytest.mark.parametrize("prefix", ["", "module.", "net.encoder."])
def test_prefixes_before_the_names_of_others(shared, source, tmp_path, prefix):
    write_pytorchvideo(tmp_path / "ptv.pyth", source, "I3D_8x8_R50", prefix=f"{prefix}model.")
    assert_holds(tmp_path / "ptv.pyth", source)
    resnet = random_resnet2d(width=4)
    torch.save(prefixed(prefix, resnet.state_dict()), tmp_path / "r50.pth")
    plain = tmp_path / "plain.pth"
    torch.save(resnet.state_dict(), plain)
    theirs, ours = read_weights(tmp_path / "r50.pth"), read_weights(plain)
    assert theirs.kind == ours.kind == "torchvision"
    assert theirs.state.keys() == ours.state.keys()


KEYS = ("module", "model_ema", "ema_state", "network", "net", "model", "state_dict", "my_weights")


@pytest.mark.parametrize("key", KEYS)
def test_keys(source, tmp_path, key):
    content = {key: source.state_dict(), "epoch": 3, "best_acc1": torch.tensor(70.0)}
    if key == "my_weights":
        del content["best_acc1"]  # an unknown key is not looked for among tensors
    torch.save(content, tmp_path / "m.pth")
    assert_holds(tmp_path / "m.pth", source)
    torch.save({"model": {"state_dict": source.state_dict()}}, tmp_path / "nested.pth")
    assert_holds(tmp_path / "nested.pth", source)


def test_the_average_where_it_is_asked_for(source, tmp_path):
    other = tiny(seed=5)
    for states, averages in (("state_dict", "state_dict_ema"), ("model", "model_ema")):
        content = {states: other.state_dict(), averages: source.state_dict()}
        torch.save(content, tmp_path / "m.pth")
        assert_holds(tmp_path / "m.pth", source, average=True)
        assert_holds(tmp_path / "m.pth", other)


def test_what_is_not_the_network_is_left_out_with_a_warning(source, tmp_path, caplog):
    """A module of Lightning: the network, its loss, its metrics; the last layer stays."""
    for outer in ("", "module."):
        state = source.state_dict()
        state = {k if k.startswith("head.") else f"model.{k}": v for k, v in state.items()}
        state = prefixed(outer, {**state, "loss.weight": torch.ones(5)})
        torch.save({"state_dict": state}, tmp_path / "m.ckpt")
        caplog.clear()
        with caplog.at_level("WARNING", "octvideo"):
            assert_holds(tmp_path / "m.ckpt", source)
        assert f"{outer}loss.weight" in caplog.text


def test_several_networks(source, tmp_path):
    state = source.state_dict()
    torch.save({**prefixed("query.", state), **prefixed("key.", state)}, tmp_path / "moco.pth")
    with pytest.raises(CheckpointError, match=r"'key\.', 'query\.'"):
        read_weights(tmp_path / "moco.pth")
    torch.save({"teacher": state, "student": state}, tmp_path / "distilled.pth")
    with pytest.raises(CheckpointError, match="'teacher', 'student'"):
        read_weights(tmp_path / "distilled.pth")


def test_an_unknown_prefix_is_named(tmp_path):
    state = {f"trunk.a.{n}.weight": torch.ones(2) for n in ("conv", "norm")}
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"begin with 'trunk\.a\.'.*CLEAR_NAME_PATTERN"):
        load_into(tiny(), read_weights(tmp_path / "m.pth"))


def test_texts_to_clear_reach_every_tool(source, tmp_path):
    """A name in the middle, which is no prefix: s1.mine.pathway0_stem..."""
    state = {key.replace(".", ".mine.", 1): value for key, value in source.state_dict().items()}
    path = tmp_path / "m.pth"
    torch.save({"model_state": state}, path)
    with pytest.raises(CheckpointError):
        load_into(tiny(), read_weights(path))
    size = ["RESNET.WIDTH_PER_GROUP", "4", "MODEL.NUM_CLASSES", "5", "DATA.NUM_FRAMES", "4"]
    size += ["TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN", "['mine.']"]
    config = ROOT / "configs/Kinetics/I3D_8x8_R50.yaml"
    for name, more in (
        ("a.pyth", ["--clear-names", "mine."]),
        ("b.pyth", ["--cfg", str(config), "--opts", *size]),
    ):
        assert convert([str(path), str(tmp_path / name), *more]) == 0
    models = [
        octvideo.create_model(
            "i3d_r50", pretrained=path, clear_names=["mine."], width_per_group=4, num_frames=4
        ),
        load_trained(config, path, size),
    ]
    states = [model.state_dict() for model in models]
    states += [read_weights(tmp_path / name).state for name in ("a.pyth", "b.pyth")]
    for state in states:
        assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())


# ---------------------------------------------------------------- what lies beside the weights


BESIDE = {
    "timm": {"args": argparse.Namespace(model="r50", lr=0.1, out=pathlib.Path("x")), "arch": "r50"},
    "numpy": {"metric": np.float64(70.1), "count": np.int64(3), "curve": np.arange(3.0)},
    "paths": {"path": pathlib.PurePosixPath("/a/b"), "there": pathlib.PureWindowsPath("c:/d")},
    "ordered": {"metrics": OrderedDict(top1=np.float32(70.1), args=argparse.Namespace(a=1))},
    "dicts": {"args": CfgNode({"a": {"b": [1]}})},
    "others": {"d": defaultdict(list, a=[1]), "t": datetime.timedelta(3), "s": {1, 2}},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_arguments_beside_the_weights(source, tmp_path, name, legacy):
    content = {"model": source.state_dict(), "epoch": 3, **BESIDE[name]}
    path = tmp_path / "m.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    assert_holds(path, source)
    assert read_weights(path).epoch == 3
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)  # nothing is admitted for the rest of the program


class Evil:
    def __init__(self, path, state=None):
        self.path, self.state = path, state

    def __reduce__(self):
        return os.mkdir, (str(self.path),), self.state


@pytest.mark.parametrize("place", ["beside", "in a Namespace", "state", "in an array"])
def test_code_beside_the_weights_does_not_run(source, tmp_path, place):
    evil = Evil(tmp_path / "made", {"a": 1} if place == "state" else None)
    array = np.empty(1, dtype=object)
    array[0] = evil
    values = {"in a Namespace": argparse.Namespace(a=evil), "in an array": array}
    torch.save({"model": source.state_dict(), "x": values.get(place, evil)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"posix\.mkdir.*save its state_dict"):
        read_weights(tmp_path / "m.pth")
    assert not (tmp_path / "made").exists()
