"""Reads a pickle of numpy arrays without unpickling it.

A pickle is a program for a stack machine, and the ordinary unpickler runs whatever it calls. Here
the program is read opcode by opcode, and only what builds plain values and numpy arrays is
understood. No function is looked up or called because the file names it, and no memory is
allocated because the file claims a size: an array must have its bytes in the file. Anything else
ends the reading.
"""

import math
import mmap
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from octvideo.weights.formats.files import CheckpointError, DamagedFile

_CONSTANTS = frozenset(
    {"NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"BINSTRING", "SHORT_BINSTRING", "UNICODE"}
    | {f"{size}BINUNICODE{end}" for size, end in (("", ""), ("SHORT_", ""), ("", "8"))}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
# What numpy's own pickles name, of numpy 1 and 2, written by Python 2 and 3.
_ADMITTED = frozenset(
    ["numpy.ndarray", "numpy.dtype", "_codecs.encode"]
    + [
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
    ]
)
_DTYPE = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1)")
_MAX_DIMENSIONS = 8
_MAX_OPCODES = 500_000  # the zoo's largest files have some ten thousand


T = TypeVar("T")


class _Refused(Exception):  # noqa: N818 - becomes a CheckpointError
    """The file asks for something that is not a numpy array."""


@dataclass
class _Global:
    name: str  # a member of _ADMITTED


@dataclass
class _Dtype:
    code: str
    order: str = "="


@dataclass
class _Array:
    value: np.ndarray | None = None  # None until its content has come


def read_blobs(path: Path) -> dict[str, object]:
    """Reads the arrays of a pickle of ``{"blobs": {name: array}}``, or of ``{name: array}``.

    Values other than arrays are plain ones (str, int, float, bytes, None). Memory stays within a
    few times the size of the file. Text written by Python 2 is read as Latin-1.

    Raises:
        CheckpointError: the file is damaged, or holds anything but arrays and plain values.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            content = _Reader(data, path.stat().st_size).run()
        blobs = content.get("blobs", content) if isinstance(content, dict) else content
        if not isinstance(blobs, dict):
            raise _Refused(f"holds {_show(blobs)} where a dict of arrays is due")
        return {str(name): _value(name, blob) for name, blob in blobs.items()}
    except _Refused as error:
        raise CheckpointError(
            f"{path} is refused, nothing of it was run: it {error}; only numpy arrays are admitted"
        ) from error
    # A damaged program pops from an empty stack, names an unknown memo, breaks off within text ...
    except (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise DamagedFile(
            f"{path} cannot be read, it may be truncated or damaged "
            f"({type(error).__name__}: {error})"
        ) from error


class _Reader:
    """The stack machine, reduced to the opcodes that data need."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data = data
        self.budget = 2 * size  # bytes of content that may be created: once as text, once as array
        self.stack: list[object] = []
        self.marked: list[list[object]] = []  # the stacks below the marks
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        # A mapped file reads like a file, and gives no more than it has whatever is asked of it.
        opcodes = pickletools.genops(self.data)  # type: ignore[arg-type]
        for count, (opcode, argument, _) in enumerate(opcodes):
            name: str = opcode.name
            if count > _MAX_OPCODES:
                raise _Refused(f"has more than {_MAX_OPCODES} opcodes")
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif not (self._memorize(name, argument) or self._collect(name)):
                self._make(name, argument)
        return self.stack.pop()

    def _memorize(self, name: str, argument: object) -> bool:
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[_a(int, argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[_a(int, argument)])
        else:
            return name in ("PROTO", "FRAME", "STOP")
        return True

    def _collect(self, name: str) -> bool:
        """Opcodes of tuples, lists and dicts."""
        stack = self.stack
        if name == "MARK":
            self.marked.append(stack)
            self.stack = []
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            empty: tuple[object, ...] | list[object] | dict[object, object]
            empty = () if name == "EMPTY_TUPLE" else [] if name == "EMPTY_LIST" else {}
            stack.append(empty)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [self._pop() for _ in range(int(name[-1]))]
            stack.append(tuple(items[::-1]))
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self._pop_mark()
            self.stack.append(_CONTAINERS[name](items))
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._pop_mark()
            _top(self.stack, list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._pop_mark()
            _top(self.stack, dict).update(_pairs(items))
        else:
            return False
        return True

    def _make(self, name: str, argument: object) -> None:
        """Opcodes of names, calls and states, as far as numpy's pickles use them."""
        if name in ("NEWTRUE", "NEWFALSE"):
            self.stack.append(name == "NEWTRUE")
        elif name == "GLOBAL":
            self.stack.append(_admit(_a(str, argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise _Refused("asks for something without a name")
            self.stack.append(_admit(f"{module}.{attribute}"))
        elif name == "REDUCE":
            arguments, function = self._pop(), self._pop()
            self.stack.append(self._call(function, arguments))
        elif name == "BUILD":
            state = self._pop()
            self._build(self.stack[-1], state)
        else:
            detail = f" {_show(argument)}" if isinstance(argument, str) else ""
            raise _Refused(f"has the opcode {name}{detail}")

    def _pop(self) -> object:
        return self.stack.pop()

    def _pop_mark(self) -> list[object]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _call(self, function: object, arguments: object) -> object:
        name = function.name if isinstance(function, _Global) else ""
        short = name.rpartition(".")[2]
        if short == "encode":
            text, encoding = _a(tuple, arguments)
            if encoding not in ("latin1", "latin-1"):
                raise _Refused(f"asks for the encoding {_show(encoding)}")
            return self._bytes(text)
        if short == "dtype":
            return _dtype(*_a(tuple, arguments))
        if short == "_reconstruct":
            return _Array()  # the arguments only ask for an empty array; the state has the shape
        if short == "scalar":
            dtype, raw = _a(tuple, arguments)
            return _Array(self._array((), dtype, raw, "C"))
        if short == "_frombuffer":
            raw, dtype, shape, order = _a(tuple, arguments)
            return _Array(self._array(shape, dtype, raw, order))
        raise _Refused(f"calls {name or _show(function)}")

    def _build(self, target: object, state: object) -> None:
        if isinstance(target, _Array):
            _version, shape, dtype, is_fortran, raw = _a(tuple, state)
            target.value = self._array(shape, dtype, raw, "F" if is_fortran else "C")
        elif isinstance(target, _Dtype):
            order, *fields = _a(tuple, state)[1:5]
            if order not in ("<", ">", "|", "=") or any(field is not None for field in fields):
                raise _Refused("has arrays of a composed type")
            target.order = order
        else:
            raise _Refused(f"sets the state of {_show(target)}")

    def _array(self, shape: object, dtype: object, raw: object, order: object) -> np.ndarray:
        """Returns a new array in this machine's byte order; ``raw`` must be exactly its bytes."""
        if not isinstance(dtype, _Dtype):
            raise _Refused(f"has an array whose type is {_show(dtype)}")
        sizes = shape if isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS else (None,)
        if not all(isinstance(n, int) and 0 <= n < 2**62 for n in sizes):
            raise _Refused("has an array whose shape is not a tuple of sizes")
        kind = np.dtype(f"{dtype.order}{dtype.code}")
        content = self._bytes(raw)
        if math.prod(sizes) * kind.itemsize != len(content):
            raise _Refused(
                f"has an array of shape {sizes} and type {dtype.code} with {len(content)} bytes "
                "of content"
            )
        array = np.frombuffer(content, kind).reshape(sizes, order="F" if order == "F" else "C")
        return np.array(array, dtype=kind.newbyteorder("="), order="C")

    def _bytes(self, raw: object) -> bytes:
        """Returns content as bytes and charges them, as a file may use one text many times."""
        if not isinstance(raw, (str, bytes, bytearray)):
            raise _Refused(f"has {_show(raw)} as the content of an array")
        self.budget -= len(raw)
        if self.budget < 0:
            raise _Refused("claims more content than the file has")
        return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)


def _admit(name: str) -> _Global:
    if name not in _ADMITTED:
        raise _Refused(f"asks for {name:.80}")
    return _Global(name)


def _dtype(code: object, *_flags: object) -> _Dtype:
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise _Refused(f"has arrays of the type {_show(code)}")
    return _Dtype(code[-2:], code[0] if len(code) == 3 else "=")


def _pairs(items: list[object]) -> dict[object, object]:
    keys = items[::2]
    if not all(isinstance(key, (str, int)) for key in keys):
        raise _Refused("has a dict whose keys are not names")
    return dict(zip(keys, items[1::2], strict=True))


_CONTAINERS: dict[str, Callable[[list[object]], object]]
_CONTAINERS = {"TUPLE": tuple, "LIST": list, "DICT": _pairs}


def _a(kind: type[T], value: object) -> T:
    """Returns ``value`` if it is of this type; a damaged file may have anything in its place."""
    if not isinstance(value, kind):
        raise TypeError(f"{_show(value)} stands where a {kind.__name__} is due")
    return value


def _top(stack: list[object], kind: type[T]) -> T:
    top = stack[-1]
    if not isinstance(top, kind):
        raise _Refused(f"fills {_show(top)} as if it were a {kind.__name__}")
    return top


def _value(name: object, blob: object) -> object:
    if isinstance(blob, _Array):
        if blob.value is None:
            raise ValueError(f"the array {name} has no content")
        return blob.value
    if blob is None or isinstance(blob, (str, int, float, bytes)):
        return blob
    raise _Refused(f"holds {_show(blob)} where the array {name} is due")


def _show(value: object) -> str:
    """Returns, for messages, the beginning of a text, or the type of anything else."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
