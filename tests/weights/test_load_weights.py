"""Any format into vanilla and octave models, and what is said of files that do not fit."""

import contextlib
import hashlib
import os
import pickle
import random
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from zoo_files import (
    caffe2_blobs,
    python2_pickle,
    python3_pickle,
    tiny,
    write_caffe2,
    write_pytorchvideo,
)

from octvideo.weights import (
    CheckpointError,
    Weights,
    load_into,
    read_weights,
    sha256_of,
    verify_sha256,
)


def assert_same_state(model: nn.Module, other: nn.Module, but: str = "none of them") -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if not key.startswith(but):
            assert torch.equal(value, theirs[key]), key


def save(path, content):
    torch.save(content, path)
    return path


FORMATS = {
    "caffe2": ("i3d", write_caffe2),
    "caffe2 slow": ("slow", write_caffe2),  # SLOWONLY_8x8_R50.pkl has the names of I3D
    "caffe2 c2d": ("slow_c2d", write_caffe2),  # C2D_NOPOOL_8x8_R50.pkl, too
    "caffe2 slowfast": ("slowfast", partial(write_caffe2, name="SLOWFAST_8x8_R50")),
    "pytorchvideo": ("i3d", partial(write_pytorchvideo, name="I3D_8x8_R50")),
    "pytorchvideo hub": ("c2d", partial(write_pytorchvideo, name="C2D_8x8_R50", prefix="")),
    "pytorchvideo slow": ("slow", partial(write_pytorchvideo, name="SLOW_8x8_R50")),
    "pytorchvideo 4x16": (
        "slowfast_4x16",
        partial(write_pytorchvideo, name="SLOWFAST_4x16_R50"),
    ),
    "pytorchvideo 8x8": ("slowfast", partial(write_pytorchvideo, name="SLOWFAST_8x8_R50")),
    "pyslowfast": ("i3d", lambda path, m: save(path, {"model_state": m.state_dict(), "epoch": 3})),
    "raw": ("slowfast_nln", lambda path, m: save(path, m.state_dict())),
    "state_dict": ("c2d", lambda path, m: save(path, {"state_dict": m.state_dict()})),
    "data parallel": (
        "i3d",
        lambda path, m: save(path, {"model_state": nn.ModuleDict({"module": m}).state_dict()}),
    ),
}


OCTAVE_FORMS = [form for form in FORMATS if form != "raw"]  # non-local blocks are of their own


@pytest.mark.parametrize(
    ("form", "octave"),
    [(form, {}) for form in FORMATS] + [(form, {"octave_alpha": 0.25}) for form in OCTAVE_FORMS],
)
def test_every_format_into_vanilla_and_octave(shared, tmp_path, form, octave):
    arch, write = FORMATS[form]
    source, model = tiny(arch, seed=1), tiny(arch, seed=2, **octave)
    weights = read_weights(write(tmp_path / "model.x", source))
    report = load_into(model, weights)
    count = len(model.state_dict())
    assert weights.kind in (form.split()[0], "pyslowfast")
    assert (report.loaded, report.left_out) == (count, ())
    assert_same_state(model, source)
    assert str(report).endswith(f"{count} entries loaded, none left out")


def test_caffe2_with_non_local_blocks(shared, tmp_path):
    source, model = tiny("i3d_nln", seed=1), tiny("i3d_nln", seed=2)
    path = write_caffe2(tmp_path / "nln.pkl", source, "I3D_NLN_8x8_R50")
    load_into(model, read_weights(path))
    assert_same_state(model, source)


def test_protocol_of_python_3_and_epoch_and_cfg(shared, tmp_path):
    source = tiny(seed=1)
    path = tmp_path / "m.pkl"
    path.write_bytes(python3_pickle(caffe2_blobs(source.state_dict(), "I3D_8x8_R50"), 4))
    weights = read_weights(path)
    assert (weights.epoch, weights.cfg) == (None, None)
    load_into(tiny(seed=3), weights)
    path = save(
        tmp_path / "m.pyth", {"model_state": source.state_dict(), "epoch": 7, "cfg": "A: 1"}
    )
    weights = read_weights(path)
    assert (weights.epoch, weights.cfg) == (7, "A: 1")


@pytest.mark.parametrize("own", [{"rng_state": torch.zeros(2)}, {"source": {"name": "a.pkl"}}])
def test_our_own_files_are_called_so(tmp_path, own):
    content = {"model_state": tiny(seed=1).state_dict(), "class_names": list("abcde"), **own}
    weights = read_weights(save(tmp_path / "m.pyth", content), "pytorch")
    assert (weights.kind, weights.class_names) == ("octvideo", list("abcde"))
    content["class_names"] = ["a", 1]
    assert read_weights(save(tmp_path / "m.pyth", content), "octvideo").class_names is None


def test_caffe2_scores_are_those_of_the_source(shared, tmp_path):
    source, model = tiny(seed=1), tiny(seed=2)
    load_into(model, read_weights(write_caffe2(tmp_path / "m.pkl", source)))
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), source(x))


def test_a_caffe2_convolution_as_last_layer(shared, tmp_path):
    source, model = tiny(seed=1), tiny(seed=2)
    blobs = caffe2_blobs(source.state_dict(), "I3D_8x8_R50")
    blobs["pred_w"] = blobs["pred_w"][..., None, None, None]
    path = tmp_path / "m.pkl"
    path.write_bytes(python2_pickle(blobs))
    load_into(model, read_weights(path))
    assert_same_state(model, source)


# ---------------------------------------------------------------- what does not fit


@pytest.fixture
def i3d_file(tmp_path):
    return save(tmp_path / "i3d.pyth", {"model_state": tiny(seed=1).state_dict()})


def test_head_of_other_classes(i3d_file, caplog):
    source, model = tiny(seed=1), tiny(seed=2, num_classes=3)
    before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("head.")}
    weights = read_weights(i3d_file)
    with pytest.raises(CheckpointError, match=r"another number of classes: set MODEL\.NUM_CLASSES"):
        load_into(model, weights)
    with caplog.at_level("WARNING", logger="octvideo"):
        report = load_into(model, weights, finetune=True)
    (record,) = caplog.records
    text = record.getMessage()
    assert "NEW LAST LAYER" in text
    assert "5 classes, the model has 3" in text
    assert "\n" not in text
    assert [m.key for m in report.left_out] == ["head.projection.weight", "head.projection.bias"]
    assert "head.projection.bias: (5,) in the file, (3,) in the model" in str(report)
    assert_same_trunk = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    for key, value in assert_same_trunk.items():
        assert torch.equal(value, source.state_dict()[key])
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value)


@pytest.mark.parametrize("left", [(), ("head.projection.bias",)])
def test_a_head_is_loaded_whole_or_not_at_all(i3d_file, left):
    model = tiny(seed=2)
    before = model.head.projection.weight.clone()
    state = {k: v for k, v in torch.load(i3d_file)["model_state"].items() if "head" not in k}
    state |= {k: v for k, v in tiny(seed=1).state_dict().items() if k in left}
    load_into(model, Weights(i3d_file, "pyslowfast", state), finetune=True)
    assert torch.equal(model.head.projection.weight, before)


@pytest.mark.parametrize("finetune", [False, True])
def test_a_file_of_another_model(tmp_path, i3d_file, finetune):
    model = tiny(seed=2, width_per_group=8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_into(model, read_weights(i3d_file), finetune=finetune)
    text = str(error.value)
    assert f"{i3d_file} does not fit the model:" in text
    assert "s1.pathway0_stem.conv.weight: (4, 3, 5, 7, 7) in the file, (8, 3, 5, 7, 7)" in text
    assert len(text.splitlines()) == 12  # ten of them, and how many more
    assert "more" in text.splitlines()[-1]
    for key, value in model.state_dict().items():  # nothing was loaded
        assert torch.equal(value, before[key])


def test_missing_and_unexpected(i3d_file):
    weights = read_weights(i3d_file)
    weights.state["extra.weight"] = weights.state.pop("s1.pathway0_stem.conv.weight")
    with pytest.raises(CheckpointError) as error:
        load_into(tiny(), weights, finetune=True)
    assert "s1.pathway0_stem.conv.weight: missing in the file" in str(error.value)
    assert "extra.weight: unknown to the model" in str(error.value)


@pytest.mark.parametrize("mode", ["cross", "high"])
def test_non_local_blocks_of_octave_networks(shared, tmp_path, mode):
    """Their shapes are their own: a training makes them good, a test cannot."""
    source = tiny("i3d_nln", seed=1)
    weights = read_weights(save(tmp_path / "nln.pyth", source.state_dict()))
    model = tiny("i3d_nln", seed=2, octave_alpha=0.25, nonlocal_mode=mode)
    with pytest.raises(CheckpointError, match="non-local blocks: octave networks have their own"):
        load_into(model, weights)
    report = load_into(model, weights, finetune=True)
    assert report.left_out
    assert all("_nonlocal" in m.key for m in report.left_out)
    assert len(str(report).splitlines()) <= 12
    left_out = {m.key for m in report.left_out}
    for key, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]) or key in left_out, key


def test_files_with_and_without_non_local_blocks(tmp_path):
    plain, blocks = tiny("i3d", seed=1), tiny("i3d_nln", seed=2)
    weights = Weights(tmp_path / "plain", "pyslowfast", plain.state_dict())
    with pytest.raises(CheckpointError, match=r"it has no non-local blocks: .*LOCATION") as error:
        load_into(blocks, weights, finetune=True)
    assert "nonlocal1.conv_theta.weight: missing in the file" in str(error.value)
    report = load_into(blocks, weights, finetune=True, inflate=True)  # as a 2D network has none
    assert {m.reason for m in report.left_out} == {"missing in the file"}
    weights = Weights(tmp_path / "nln", "pyslowfast", blocks.state_dict())
    with pytest.raises(CheckpointError, match=r"it has non-local blocks: .*LOCATION") as error:
        load_into(plain, weights, finetune=True)
    assert "unknown to the model" in str(error.value)


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("caffe2", "of kind pytorch, not caffe2: leave out --from"),
        ("pytorchvideo", "of kind pyslowfast"),
    ],
)
def test_the_kind_that_was_asked_for(i3d_file, kind, message):
    with pytest.raises(CheckpointError, match=rf"i3d\.pyth.*{message}"):
        read_weights(i3d_file, kind)
    for good in ("auto", "pytorch", "pyslowfast"):
        assert read_weights(i3d_file, good).kind == "pyslowfast"
    with pytest.raises(ValueError, match="unknown kind"):
        read_weights(i3d_file, "onnx")


def test_a_caffe2_file_where_pytorch_was_asked_for(shared, tmp_path):
    path = write_caffe2(tmp_path / "m.pkl", tiny())
    with pytest.raises(CheckpointError, match=r"m\.pkl is a file of kind caffe2, not pytorch"):
        read_weights(path, "pytorch")
    assert read_weights(path, "caffe2").kind == "caffe2"


def test_texts_are_cleared_from_names_once(tmp_path):
    state = {f"backbone.{k}": v for k, v in tiny(seed=1).state_dict().items()}
    path = save(tmp_path / "m.pyth", {"model_state": state})
    weights = read_weights(path, "pytorch", ("backbone.",))
    load_into(tiny(seed=2), weights)
    twice = save(tmp_path / "t.pyth", {"model_state": {"a.a.w": torch.ones(1)}})
    assert list(read_weights(twice, clear_names=("a.",)).state) == ["a.w"]
    clash = save(tmp_path / "c.pyth", {"a.w": torch.ones(1), "w": torch.ones(1)})
    with pytest.raises(CheckpointError, match="the same name"):
        read_weights(clash, clear_names=("a.",))


# ---------------------------------------------------------------- bad files


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


HOSTILE = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content, 2)),
}


@pytest.mark.parametrize("place", ["model_state", "epoch", "whole", "tensor"])
@pytest.mark.parametrize("form", HOSTILE)
def test_hostile_pytorch_files(tmp_path, form, place):
    trace, path = tmp_path / "trace", tmp_path / "evil.pyth"
    content = {
        "model_state": {"model_state": Touch(trace)},
        "epoch": {"model_state": {"w": torch.ones(2)}, "epoch": Touch(trace)},
        "whole": Touch(trace),
        "tensor": {"model_state": {"w": Touch(trace)}},
    }[place]
    HOSTILE[form](content, path)
    with pytest.raises(CheckpointError, match=r"evil\.pyth"):
        read_weights(path)
    assert not trace.exists()
    if form != "pickle":  # the file itself works
        torch.load(path, weights_only=False)
        assert trace.exists()


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_truncated_and_flipped_pytorch_files(tmp_path, form):
    path = tmp_path / "m.pyth"
    HOSTILE[form]({"model_state": {"w": torch.randn(8), "b": torch.randn(3)}}, path)
    good, rng = path.read_bytes(), random.Random(0)
    for length in sorted(rng.sample(range(len(good)), 60)):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"m\.pyth"):
            read_weights(path)
    for _ in range(200):
        data = bytearray(good)
        data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):  # else another value somewhere
            read_weights(path)


def test_every_flipped_bit_of_a_weight_is_found(tmp_path):
    weight, path = torch.randn(500), tmp_path / "m.pyth"
    data = save(path, {"model_state": {"w": weight}}).read_bytes()
    start = data.index(weight.numpy().tobytes())
    for place in range(start, start + 2000, 111):
        path.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
        with pytest.raises(CheckpointError, match=r"m\.pyth cannot be read.*damaged: Bad CRC-32"):
            read_weights(path)


def test_files_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "m.pyth", {"model_state": {"w": torch.ones(3)}})
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None  # an ordinary reader would complain
    assert torch.equal(read_weights(path).state["w"], torch.ones(3))


def test_the_refusal_names_what_was_asked_for_and_gives_no_bad_advice(tmp_path):
    for form in ("zip", "legacy"):
        HOSTILE[form]({"model_state": {"w": Touch(tmp_path / "trace")}}, tmp_path / "evil.pyth")
        with pytest.raises(CheckpointError) as error:
            read_weights(tmp_path / "evil.pyth")
        assert f"asks for {os.mkdir.__module__}.mkdir" in str(error.value)
        assert "weights_only" not in str(error.value)


def test_archives_that_are_not_of_torch_save(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:  # some records of torch.jit.save
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"m/{name}", name)
    with pytest.raises(CheckpointError, match=r"m\.pt is a TorchScript program"):
        read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "text")
    with pytest.raises(CheckpointError, match=r"m\.pt is a zip file, but not one of torch\.save"):
        read_weights(path)


def test_a_compressed_bomb(tmp_path):
    path, big = tmp_path / "bomb.pyth", tmp_path / "big.pyth"
    torch.save({"w": torch.zeros(4_000_000)}, big)
    with zipfile.ZipFile(big) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"bomb\.pyth.*more than the file has"):
        read_weights(path)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(1).expand(10**12),
        torch.ones(3, 3).to_sparse(),
        "text",
        np.float32(1),
        torch.empty(4, device="meta"),
    ],
    ids=["expanded", "sparse", "text", "number", "meta"],
)
def test_odd_parameters(tmp_path, value):
    path = save(tmp_path / "odd.pyth", {"model_state": {"w": value}})
    with pytest.raises(CheckpointError, match=r"odd\.pyth"):
        read_weights(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (
            b"<!DOCTYPE html><html>not found</html>",
            "neither a PyTorch file nor a Caffe2 pickle nor",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version https"),
        (b"PK\x03\x04", "truncated"),
        (b"\x80\x02", "truncated"),
        (pickle.dumps({"blobs": {"fc_w": 1}}, 2), "no blobs with the names"),
        (pickle.dumps({"blobs": {"conv1_w": 1}}, 2), "blob conv1_w is a int, not an array"),
        (pickle.dumps([1, 2], 2), "holds a list"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, data, message):
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.pkl") as error:
        read_weights(path)
    assert message in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model_state": {}}, {"model_state": [1]}, 5])
def test_pytorch_files_without_a_model(tmp_path, content):
    path = save(tmp_path / "x.pyth", content)
    with pytest.raises(CheckpointError, match=r"x\.pyth.*not a checkpoint"):
        read_weights(path)


def test_absent_files_and_folders(tmp_path):
    for path in (tmp_path / "absent.pkl", tmp_path):
        with pytest.raises(CheckpointError, match="there is no checkpoint"):
            read_weights(path)


def test_sha256(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"abc" * 10**6)
    digest = hashlib.sha256(b"abc" * 10**6).hexdigest()
    assert sha256_of(path) == digest
    for expected in (digest, digest.upper(), digest[:8]):
        verify_sha256(path, expected)
    with pytest.raises(CheckpointError, match=rf"x\.bin.*{digest}, not {'0' * 64}"):
        verify_sha256(path, "0" * 64)
    with pytest.raises(ValueError, match="at least 8"):
        verify_sha256(path, "")
    with pytest.raises(CheckpointError, match="cannot be read"):
        verify_sha256(tmp_path / "absent", digest)
