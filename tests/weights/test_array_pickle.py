"""The reader of Caffe2's pickles: right on good files, harmless on bad ones."""

import contextlib
import copyreg
import os
import pickle
import random
import struct
import tracemalloc

import numpy as np
import pytest
from zoo_files import python2_pickle, python3_pickle

from octvideo.weights import CheckpointError, read_weights
from octvideo.weights.formats.array_pickle import read_blobs

RNG = np.random.default_rng(0)
BLOBS = {
    "conv1_w": RNG.normal(size=(4, 3, 1, 7, 7)).astype(np.float32),
    "pred_b": RNG.normal(size=5),
    "half": RNG.normal(size=(2, 3)).astype(np.float16),
    "bytes": np.arange(256, dtype=np.uint8),
    "scalar": np.array(7, np.int64),
    "truth": np.array([True, False]),
    "model_iter": 12,
}
WRITERS = {f"protocol {p}": lambda blobs, p=p: python3_pickle(blobs, p) for p in (2, 3, 4, 5)}
WRITERS["Python 2"] = python2_pickle


def read(tmp_path, data: bytes):
    path = tmp_path / "model.pkl"
    path.write_bytes(data)
    return read_blobs(path)


def assert_same(blobs, expected):
    assert list(blobs) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(blobs[name], value, strict=isinstance(value, np.ndarray))


@pytest.mark.parametrize("writer", WRITERS)
def test_arrays_of_every_writer(tmp_path, writer):
    assert_same(read(tmp_path, WRITERS[writer](BLOBS)), BLOBS)


def test_without_the_word_blobs(tmp_path):
    assert_same(read(tmp_path, pickle.dumps(BLOBS, 2)), BLOBS)


@pytest.mark.parametrize("protocol", [2, 5])
def test_orders_of_bytes_and_axes(tmp_path, protocol):
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    fortran = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    blobs = read(tmp_path, python3_pickle({"b": big, "f": fortran, "s": np.float32(3)}, protocol))
    np.testing.assert_array_equal(blobs["b"], big)
    np.testing.assert_array_equal(blobs["f"], fortran)
    assert blobs["b"].dtype == np.float32
    assert blobs["s"] == 3


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_an_array_without_entries(tmp_path, protocol):
    assert read(tmp_path, python3_pickle({"e": np.zeros((0, 3))}, protocol))["e"].shape == (0, 3)


# ---------------------------------------------------------------------------- hostile files


class Reduced:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def in_blobs(program: bytes) -> bytes:
    """{"blobs": {"conv1_w": <program>}}"""
    return b"\x80\x04}" + text("blobs") + b"}" + text("conv1_w") + program + b"ss."


def dumped(value, protocol=2) -> bytes:
    return pickle.dumps({"blobs": {"pred_b": BLOBS["pred_b"], "conv1_w": value}}, protocol)


# Programs that make the folder ``trace`` when an ordinary unpickler runs them.
ATTACKS = {
    "system": lambda t: dumped(Reduced(os.system, f"mkdir '{t}'")),
    "eval": lambda t: dumped(Reduced(eval, f"__import__('os').mkdir({t!r})")),
    "exec": lambda t: dumped(Reduced(exec, f"import os; os.mkdir({t!r})"), 4),
    "object array": lambda t: dumped(np.array([Reduced(os.mkdir, t)], dtype=object)),
    "key": lambda t: b"\x80\x02}" + b"cos\nmkdir\n" + text(t) + b"\x85RK\x01s.",
    "top": lambda t: b"\x80\x02cos\nmkdir\n" + text(t) + b"\x85R.",
    "popped": lambda t: in_blobs(b"cos\nmkdir\n" + text(t) + b"\x85R0K\x01"),
    "stack global": lambda t: in_blobs(text("os") + text("mkdir") + b"\x93" + text(t) + b"\x85R"),
    "dotted": lambda t: in_blobs(
        text("numpy") + text("lib._utils_impl.os.mkdir") + b"\x93" + text(t) + b"\x85R"
    ),
    "getattr": lambda t: in_blobs(
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n" + text("os") + b"\x85R"
        + text("mkdir") + b"tR" + text(t) + b"\x85R"
    ),
    "numpy's own": lambda t: in_blobs(
        b"cnumpy.testing._private.utils\nrunstring\n" + text(f"import os; os.mkdir({t!r})")
        + b"}\x86R"
    ),
    "inst": lambda t: in_blobs(b"(" + text(t) + b"ios\nmkdir\n"),
    "obj": lambda t: in_blobs(b"(cos\nmkdir\n" + text(t) + b"o"),
    "newobj": lambda t: in_blobs(
        b"csubprocess\nPopen\n" + text(f"mkdir '{t}'") + b"J\xff\xff\xff\xffNNNNN\x88\x88t\x81"
    ),
    "extension": lambda t: in_blobs(b"\x82\xf0" + text(t) + b"\x85R"),
    "encode": lambda t: in_blobs(
        b"c_codecs\nencode\n0cos\nmkdir\n" + text(t) + b"\x85R"
    ),
    "build": lambda t: in_blobs(
        b"c_codecs\nencode\n}" + text("x") + b"cos\nmkdir\n" + text(t) + b"\x85Rsb"
    ),
    "after the end of a good file": lambda t: python3_pickle(BLOBS, 2)[:-1]
    + b"cos\nmkdir\n" + text(t) + b"\x85R.",
}  # fmt: skip
DEAD = {"newobj"}  # the unpickler refuses it as well


@pytest.fixture
def extension():
    copyreg.add_extension("os", "mkdir", 0xF0)
    yield
    copyreg.remove_extension("os", "mkdir", 0xF0)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.usefixtures("extension")
def test_nothing_is_run(tmp_path, attack):
    trace, path = tmp_path / "trace", tmp_path / "evil.pkl"
    path.write_bytes(ATTACKS[attack](str(trace)))
    for reader in (read_blobs, read_weights):
        with pytest.raises(CheckpointError, match=r"evil\.pkl is refused, nothing of it was run"):
            reader(path)
        assert not trace.exists()
    if attack not in DEAD:  # the program itself works
        with contextlib.suppress(TypeError, AttributeError, pickle.UnpicklingError):
            pickle.loads(path.read_bytes())
        assert trace.exists()


def array(shape: bytes, dtype: bytes, raw: bytes) -> bytes:
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"


F4 = b"cnumpy\ndtype\n(" + text("f4") + b"K\x00K\x01tR(K\x03" + text("<") + b"NNN" + (
    b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
)  # fmt: skip
HUGE = b"\x8a\x06" + (10**12).to_bytes(6, "little")
MIB = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)

BOMBS = {
    "shape": in_blobs(array(b"(" + HUGE + b"t", F4, b"C\x04abcd")),
    "product": in_blobs(array(b"(" + HUGE * 8 + b"t", F4, b"C\x04abcd")),
    "negative": in_blobs(array(b"(J\xff\xff\xff\xffJ\xff\xff\xff\xfft", F4, b"C\x04abcd")),
    "dimensions": in_blobs(array(b"(" + b"K\x01" * 70 + b"t", F4, b"C\x04abcd")),
    "allocation": in_blobs(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + HUGE + b"tC\x01ftR"
    ),
    "dtype": in_blobs(b"cnumpy\ndtype\n(" + text("V999999999999") + b"K\x00K\x01tR"),
    "objects": in_blobs(b"cnumpy\ndtype\n(" + text("O8") + b"K\x00K\x01tR"),
    "fields": in_blobs(
        b"cnumpy\ndtype\n(" + text("f4") + b"K\x00K\x01tR(K\x03" + text("<") + b"N(t}tb"
    ),
    "text": b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"abc",
    "bytes": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"abc",
    "bytearray": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc",
    "frame": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"}r\xff\xff\xff\xff",
    "laughs": in_blobs(b")" + b"q\x000h\x00h\x00\x86" * 60),
    "dict of dicts": in_blobs(b"}" + text("x") + b"}s"),
    "reuse": b"\x80\x04}(" + text("raw") + MIB + b"q\x00"
    + b"".join(text(str(i)) + array(b"(J\x00\x00\x04\x00t", F4, b"h\x00") for i in range(100))
    + b"u.",
    "encodings": b"\x80\x04}(" + text("raw") + text("a" * 2**20) + b"q\x00"
    + b"".join(text(str(i)) + b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R"
               for i in range(100)) + b"u.",
    "opcodes": b"\x80\x02" + b"]" * 600_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize(
    "bomb", [pytest.param(name, marks=[pytest.mark.slow] * (name == "opcodes")) for name in BOMBS]
)
def test_no_memory_on_the_word_of_a_file(tmp_path, bomb):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS[bomb])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"bomb\.pkl"):
            read_blobs(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20 + 64 * len(BOMBS[bomb])


# ---------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("writer", WRITERS)
def test_truncated_files(tmp_path, writer):
    data = WRITERS[writer](BLOBS)
    for length in [*range(2, 200), *range(200, len(data), 97), len(data) - 1]:
        with pytest.raises(CheckpointError, match=r"model\.pkl"):
            read(tmp_path, data[:length])


def test_flipped_bytes(tmp_path):
    """Another value somewhere, or a clear error; never anything else."""
    good, rng = python3_pickle({"a": BLOBS["half"], "b": BLOBS["truth"]}, 2), random.Random(0)
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            blobs = read(tmp_path, bytes(data))
        except CheckpointError:
            continue
        assert isinstance(blobs, dict)
