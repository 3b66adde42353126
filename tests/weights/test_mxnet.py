"""MXNet's files: what MXNet wrote, every version of the format, and files that are damaged."""

import io
import random
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch
from authors import FOLDER, authors_shapes, made_weight, need_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet_writer import write_mxnet

from octvideo.weights import CheckpointError
from octvideo.weights.formats.mxnet import read_mxnet

TYPES = {"f4": 0, "f8": 1, "f2": 2, "u1": 3, "i4": 4, "i1": 5, "i8": 6}
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA


def array_bytes(value: np.ndarray, version: str) -> bytes:
    """An array as MXNet's source says that it is written, independent of our writer."""
    n, shape = value.ndim, value.shape
    head = {
        "legacy": struct.pack(f"<I{n}I", n, *shape),
        "V1": struct.pack(f"<II{n}q", V1, n, *shape),
        "V2": struct.pack(f"<IiI{n}q", V2, 0, n, *shape),
        "V3": struct.pack(f"<Iii{n}q", V3, 0, n, *shape),
    }[version]
    number = TYPES[value.dtype.str[1:]]
    return head + struct.pack("<iii", 2, 3, number) + value.tobytes()  # of the fourth GPU


def list_bytes(arrays: list[bytes], names: list[str]) -> bytes:
    data = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays)
    data += struct.pack("<Q", len(names))
    return data + b"".join(struct.pack("<Q", len(n.encode())) + n.encode() for n in names)


VALUES = {
    "arg:fc_weight": np.arange(12, dtype="f4").reshape(3, 4) / 7,
    "aux:bn_moving_var": np.array([1.5, 2.5]),
    "arg:fc_bias": np.array([[[1, -2.5, 0.125]]], "f2"),
    "bytes": np.arange(200, dtype="u1"),
    "ints": np.array([[1, -2], [3, 2**31 - 1]], "i4"),
    "signed": np.array([-128, 127], "i1"),
    "longs": np.array([-(2**62), 5]),
}


def good(version: str = "V2") -> bytes:
    return list_bytes([array_bytes(v, version) for v in VALUES.values()], list(VALUES))


def read(tmp_path, data: bytes) -> dict[str, torch.Tensor]:
    path = tmp_path / "model.params"
    path.write_bytes(data)
    return read_mxnet(path)


# ---------------------------------------------------------------------------- what MXNet writes


def test_the_file_that_mxnet_wrote(tmp_path):
    need_lists()
    source = FOLDER / "sample.params"
    arrays = read_mxnet(source)
    shapes = authors_shapes("resnet-26_alpha-0.250")
    assert len(arrays) == 8
    for name, array in arrays.items():
        assert array.dtype == torch.float32
        assert tuple(array.shape) == shapes[name]
        assert np.array_equal(array.numpy(), made_weight(name, shapes[name])), name
    write_mxnet(tmp_path / "again.params", arrays)
    assert (tmp_path / "again.params").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("version", ["legacy", "V1", "V2", "V3"])
def test_versions_and_types(tmp_path, version):
    arrays = read(tmp_path, good(version))
    assert list(arrays) == list(VALUES)
    for name, value in VALUES.items():
        array = arrays[name].numpy()
        assert array.dtype == value.dtype
        assert np.array_equal(array, value), name


def test_a_number_under_the_rules_of_numpy(tmp_path):
    data = list_bytes([array_bytes(np.array(2.5, "f4"), "V3")], ["scale"])
    assert read(tmp_path, data)["scale"].item() == 2.5


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8]
DTYPES += [torch.int16, torch.int32, torch.int64, torch.bool]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
@pytest.mark.timeout(60)
def test_round_trip(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("round") / "x.params"
    names = data.draw(st.lists(st.text(max_size=20), max_size=5, unique=True))
    arrays = {}
    for name in names:
        shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        raw = torch.randint(0, 2, shape)
        arrays[name] = raw.to(data.draw(st.sampled_from(DTYPES))).transpose(0, -1)
    write_mxnet(path, arrays)
    again = read_mxnet(path)
    assert list(again) == names
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert torch.equal(again[name], array)


# ---------------------------------------------------------------------------- tar files


def tar_bytes(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# As the released ones: a folder with the network and the weights of "epoch 0".
PARAMS, SYMBOL = "a01_net/checkpoint-0-0000.params", "a01_net/checkpoint-0-symbol.json"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "ä" * 90 + "/" + "b" * 50 + "/"])
def test_the_weights_in_a_tar_file(tmp_path, form, folder):
    if folder and form == tarfile.USTAR_FORMAT:
        folder = folder.replace("ä", "a")
    path = tmp_path / "net.tar"
    extra = {"._a01_net": b"", PARAMS.replace("/", "/._"): b"macOS"}
    path.write_bytes(tar_bytes({SYMBOL: b"{}", **extra, folder + PARAMS: good()}, form))
    arrays = read_mxnet(path)
    for name, value in VALUES.items():
        assert np.array_equal(arrays[name].numpy(), value), name
    assert list(tmp_path.iterdir()) == [path]


def linked() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as archive:
        info = tarfile.TarInfo(PARAMS)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return buffer.getvalue()


def claiming(size: bytes) -> bytes:
    """The header of a file of another size; its checksum is right."""
    header = bytearray(tar_bytes({PARAMS: good()}))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


TARS = {
    "two": (tar_bytes({PARAMS: good(), "b.params": good()}), "2 files .*a01_net/check.*b.params"),
    "none": (tar_bytes({SYMBOL: b"{}"}), "without a file"),
    "link": (linked(), "not whole"),
    "large": (claiming(b"77777777777\0"), "not whole|damaged"),
    "huge": (claiming(b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7), "not whole|damaged"),
    "negative": (claiming(b"\xff" * 12), "not whole|damaged"),
    "many": (tar_bytes({f"{i}.json": b"" for i in range(1500)}), "more than 1000 members"),
    "no list": (tar_bytes({PARAMS: b"PK\3\4" + bytes(100)}), "no list of arrays"),
    "pickle": (tar_bytes({PARAMS: b""}), "truncated"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("case", TARS)
def test_tar_files_without_weights(tmp_path, case):
    data, message = TARS[case]
    path = tmp_path / "net.tar"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"net\.tar.*({message})"):
        read_mxnet(path)


@pytest.mark.timeout(60)
def test_damaged_tar_files(tmp_path):
    """Never anything but arrays or a clear error, whatever happens to a header."""
    data, rng, path = tar_bytes({SYMBOL: b"{}", PARAMS: good()}), random.Random(0), tmp_path / "a"
    for length in [*range(257, 2000, 13), *range(2000, len(data), 512)]:
        path.write_bytes(data[:length])
        check_refused_or_read(path)
    for _ in range(700):
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 2, 5))):
            flipped[rng.randrange(2048)] = rng.randrange(256)
        path.write_bytes(flipped)
        check_refused_or_read(path)


def check_refused_or_read(path) -> None:
    try:
        arrays = read_mxnet(path)
    except CheckpointError:
        return
    assert all(isinstance(array, torch.Tensor) for array in arrays.values())


# ---------------------------------------------------------------------------- damaged files

ONE = array_bytes(np.ones(3, "f4"), "V2")


def v2(*, storage: int = 0, shape: tuple[int, ...] = (3,), dtype: int = 0, ndim=None) -> bytes:
    ndim = len(shape) if ndim is None else ndim
    head = struct.pack(f"<IiI{len(shape)}qiii", V2, storage, ndim, *shape, 1, 0, dtype)
    return list_bytes([head + bytes(12)], ["x"])


HOSTILE = {
    "count": (struct.pack("<QQQ", 0x112, 0, 2**63) + ONE, "claims 9223372036854775808 arrays"),
    "negative count": (struct.pack("<QQq", 0x112, 0, -1) + ONE, "arrays in"),
    "many arrays": (
        list_bytes([array_bytes(np.zeros(1, "u1"), "legacy")] * 60_000, []),
        "at most 50000",
    ),
    "names": (
        struct.pack("<QQQ", 0x112, 0, 1) + ONE + struct.pack("<Q", 2**60),
        "1152921504606846976 names",
    ),
    "length of a name": (
        struct.pack("<QQQ", 0x112, 0, 1) + ONE + struct.pack("<QQ", 1, 2**62),
        "a name needs 4611686018427387904 bytes",
    ),
    "shape": (v2(shape=(2**40, 2**40)), "array 0 of 1, of shape .* needs"),
    "overflowing shape": (v2(shape=(2**62, 2**62, 2**62)), "needs"),
    "negative shape": (v2(shape=(-1,)), "no content"),
    "empty shape": (v2(shape=(0, 2**62)), "no content"),
    "no shape": (v2(shape=()), "no content"),
    "dimensions": (v2(ndim=2**32 - 1), "claims 4294967295 dimensions"),
    "type": (v2(dtype=77), "type 77"),
    "sparse": (v2(storage=1), "sparse"),
    "no names": (list_bytes([ONE], []), "no names"),
    "fewer names": (list_bytes([ONE, ONE], ["x"]), "2 arrays and 1 names"),
    "same names": (list_bytes([ONE, ONE], ["x", "x"]), "same name"),
    "more bytes": (list_bytes([ONE], ["x"]) + b"1234", "4 bytes follow"),
    "no text": (list_bytes([ONE], ["x"])[:-1] + b"\xff", "no text"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("case", HOSTILE)
def test_no_memory_on_the_word_of_a_file(tmp_path, case):
    data, message = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=rf"model\.params.*({message})"):
            read(tmp_path, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 + 2 * len(data)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("version", ["legacy", "V1", "V2", "V3"])
def test_truncated_files(tmp_path, version):
    data = good(version)
    for length in range(16, len(data)):
        with pytest.raises(CheckpointError, match=r"model\.params"):
            read(tmp_path, data[:length])


@settings(max_examples=400, deadline=None)
@given(
    version=st.sampled_from(["legacy", "V1", "V2", "V3"]),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
)
@pytest.mark.timeout(60)
def test_flipped_bytes(tmp_path_factory, version, flips):
    """Another value, or a clear error; never anything else."""
    data = bytearray(good(version))
    for place, value in flips:
        data[16 + place % (len(data) - 16)] = value
    path = tmp_path_factory.getbasetemp() / "flipped.params"
    path.write_bytes(data)
    check_refused_or_read(path)


def test_other_files(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not an MXNet file but of the format torch"):
        read_mxnet(path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_mxnet(tmp_path / "missing.params")
