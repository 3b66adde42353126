"""Reads files of MXNet's ``nd.save`` without MXNet.

A ``.params`` file is a list of arrays and a list of their names, all numbers little-endian:

    uint64 0x112, uint64 0, uint64 count, count arrays, uint64 count, count x (uint64 length, text)

An array, in the form that MXNet 1.x writes (V2; V3 under numpy's rules is the same):

    uint32 0xF993FAC9, int32 storage (0: dense), uint32 n, n x int64 shape,
    int32 device, int32 device number, int32 type, content

V1 (0xF993FAC8) has no storage; before it, the first number was n, and the shape n x uint32
(apache/mxnet, src/ndarray/ndarray.cc). No memory is allocated because a file claims a size:
an array must have its bytes in it.
"""

import math
import mmap
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from octvideo.weights.formats.files import CheckpointError, DamagedFile, file_format

_LIST = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_TYPES = {
    0: torch.float32,
    1: torch.float64,
    2: torch.float16,
    3: torch.uint8,
    4: torch.int32,
    5: torch.int8,
    6: torch.int64,
    7: torch.bool,
    8: torch.int16,
    12: torch.bfloat16,
}
_MAX_DIMENSIONS = 32
_MAX_ARRAYS = 50_000  # the largest published network has some 2,500
_MAX_MEMBERS = 1000  # of a tar file; the published ones have two files
_TAR_BLOCK = 512
_TAR_NAMES = (b"L", b"x")  # of the member that follows: GNU's long name, pax attributes
_TAR_SKIPPED = (b"K", b"g")  # GNU's long target of a link, attributes of all members
_MAX_TAR_NAME = 8192  # bytes
_PAX_PATH = re.compile(rb"(?:^|\n)[0-9]{1,5} path=([^\n]*)\n")
_REGULAR = (b"0", b"\0", b"7")
_MIN_ARRAY = 16  # bytes; what an array without content takes


class _Damaged(Exception):  # noqa: N818 - becomes a CheckpointError
    """The file is not what MXNet writes; the text continues "FILE ..."."""


def read_mxnet(path: Path) -> dict[str, Tensor]:
    """Returns the arrays of a ``.params`` file by name, or of the one inside a ``.tar`` file.

    Names are MXNet's: with ``arg:`` or ``aux:`` in a symbol's file, without in gluon's. Nothing is
    unpacked to disk, and memory is little more than the size of the file.

    Raises:
        CheckpointError: the file is damaged, of another format, or has sparse or unnamed arrays.
    """
    form = file_format(path)
    if form not in ("mxnet", "tar"):
        raise CheckpointError(f"{path} is not an MXNet file but of the format {form}")
    if sys.byteorder != "little":  # content is taken as it is
        raise CheckpointError(f"{path}: MXNet files are read on little-endian machines only")
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start, end = _member(data) if form == "tar" else (0, len(data))
            return _Reader(data, start, end).run()
    except _Damaged as error:
        raise DamagedFile(f"{path} {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _member(data: mmap.mmap) -> tuple[int, int]:
    """Returns where in a tar file its one ``.params`` file begins and ends."""
    # "._x.params" is what macOS's tar adds to a file x.params
    found = [m for m in _members(data) if m.name.endswith(".params") and "/._" not in f"/{m.name}"]
    if len(found) != 1:
        names = ", ".join(member.name for member in found[:5])
        raise _Damaged(
            f"is a tar file with {len(found)} files *.params ({names}): unpack it and name one"
            if found
            else "is a tar file without a file *.params"
        )
    member = found[0]
    if member.kind not in _REGULAR or member.start + member.size > len(data):
        raise _Damaged(f"is truncated or damaged: {member.name} is not whole in it")
    return member.start, member.start + member.size


class _Member(NamedTuple):
    name: str
    kind: bytes  # the type flag
    start: int
    size: int


def _members(data: mmap.mmap) -> Iterator[_Member]:
    """Yields the members of a tar file (ustar, GNU, pax): each has a header of 512 bytes.

    Python's tarfile reads some headers in quadratic time: one of 400,000 digits takes hours.
    """
    at, long_name = 0, ""
    for _ in range(_MAX_MEMBERS):
        header = data[at : at + _TAR_BLOCK]
        if len(header) < _TAR_BLOCK or not header.strip(b"\0"):
            return
        size, kind = _tar_number(header[124:136]), header[156:157]
        blank = header[:148] + bytes(b" " * 8) + header[156:]
        if sum(blank) != _tar_number(header[148:156]):
            raise _Damaged("is a damaged tar file: a header does not have its checksum")
        start = at + _TAR_BLOCK
        at = start + -(-size // _TAR_BLOCK) * _TAR_BLOCK
        if kind in _TAR_NAMES:
            if size > _MAX_TAR_NAME:
                raise _Damaged(f"is a tar file with a header of {size} bytes")
            text = data[start : start + size]
            match = _PAX_PATH.search(text) if kind == b"x" else None
            long_name = _tar_text(match[1] if match else b"" if kind == b"x" else text)
        elif kind not in _TAR_SKIPPED:
            folder, name = _tar_text(header[345:500]), _tar_text(header[:100])
            if folder and header[257:263] == b"ustar\0":
                name = f"{folder}/{name}"
            yield _Member(long_name or name, kind, start, size)
            long_name = ""
    raise _Damaged(f"is a tar file of more than {_MAX_MEMBERS} members")


def _tar_number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU's form of sizes from 8 GB
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if not re.fullmatch(b"[0-7]*", text):
        raise _Damaged("is a damaged tar file: a number in a header is not octal")
    return int(text or b"0", 8)


def _tar_text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


class _Reader:
    """Reads a list of arrays from data[start:end]."""

    def __init__(self, data: mmap.mmap, start: int, end: int) -> None:
        self.data = data
        self.at = start
        self.end = end

    def run(self) -> dict[str, Tensor]:
        head = self._numbers("QQ", "its head")
        if head != (_LIST, 0):
            raise _Damaged("has no list of arrays as MXNet's nd.save writes it")
        count = self._count(_MIN_ARRAY, "arrays")
        if count > _MAX_ARRAYS:
            raise _Damaged(f"claims {count} arrays; at most {_MAX_ARRAYS} are read")
        arrays = [self._array(f"array {i} of {count}") for i in range(count)]
        named = self._count(8, "names")
        if named != count:
            text = "no names: save a dict" if not named else f"{named} names"
            raise _Damaged(f"has {count} arrays and {text}")
        names = [self._name() for _ in range(named)]
        if self.at != self.end:
            raise _Damaged(f"is damaged: {self.end - self.at} bytes follow after its end")
        if len(set(names)) < count:
            raise _Damaged("has two arrays of the same name")
        return dict(zip(names, arrays, strict=True))

    def _take(self, size: int, what: str) -> bytes:
        if size > self.end - self.at:
            raise _Damaged(
                f"is truncated or damaged: {what} needs {size} bytes, {self.end - self.at} are left"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def _numbers(self, code: str, what: str) -> tuple[int, ...]:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}"), what))

    def _count(self, size: int, what: str) -> int:
        """Reads how many things of at least ``size`` bytes follow."""
        (count,) = self._numbers("Q", f"the number of {what}")
        if count * size > self.end - self.at:
            raise _Damaged(
                f"is truncated or damaged: it claims {count} {what} in {self.end - self.at} bytes"
            )
        return count

    def _array(self, what: str) -> Tensor:
        (magic,) = self._numbers("I", what)
        if magic in (_V2, _V3):
            (storage,) = self._numbers("i", what)
            if storage:
                raise _Damaged(f"has sparse arrays ({what}, storage {storage}): no parameters")
        ndim = self._numbers("I", what)[0] if magic in (_V1, _V2, _V3) else magic
        if ndim > _MAX_DIMENSIONS:
            raise _Damaged(f"is damaged: {what} claims {ndim} dimensions")
        shape = self._numbers(f"{ndim}{'q' if magic in (_V1, _V2, _V3) else 'I'}", what)
        if (ndim == 0 and magic != _V3) or any(n < 1 for n in shape):
            raise _Damaged(f"has no content for {what}, of shape {shape}")
        *_device, number = self._numbers("iii", what)
        if number not in _TYPES:
            raise _Damaged(f"has {what} of MXNet's type {number}, which is not read")
        dtype = _TYPES[number]
        raw = self._take(math.prod(shape) * dtype.itemsize, f"{what}, of shape {shape},")
        if dtype == torch.bool and raw.strip(b"\0\1"):
            raise _Damaged(f"is damaged: {what} has truth values other than 0 and 1")
        return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)

    def _name(self) -> str:
        (length,) = self._numbers("Q", "the length of a name")
        try:
            return self._take(length, "a name").decode()
        except UnicodeDecodeError as error:
            raise _Damaged(f"is damaged: a name is no text ({error})") from error
