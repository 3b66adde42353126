"""Reads a pickle of numpy arrays without unpickling it.

A pickle is a program for a stack machine, and the ordinary unpickler runs whatever it calls. Here
the program is read opcode by opcode, and only what builds plain values and numpy arrays is
understood. No function is looked up or called by a name of the file, and no memory is taken on
its word: an array must have its bytes in the file. Anything else ends the reading.
"""

import math
import mmap
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class _Refused(Exception):  # noqa: N818 - becomes a CheckpointError
    """The file asks for something that is no numpy array."""


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


def read_blobs(path: Path) -> dict[str, Any]:
    """The arrays of a pickle of ``{"blobs": {name: array}}``, or of ``{name: array}``.

    Values that are no arrays are plain ones (str, int, float, bytes, None). Memory is at most a
    few times the size of the file. Text of Python 2 is read as Latin-1.

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
            f"{path} can not be read, it may be truncated or damaged "
            f"({type(error).__name__}: {error})"
        ) from error


class _Reader:
    """The stack machine, of the opcodes that data need."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data = data
        self.budget = 2 * size  # bytes of array content that may be made: once as text, once used
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.data)):
            name = opcode.name
            if count > _MAX_OPCODES:
                raise _Refused(f"has more than {_MAX_OPCODES} opcodes")
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif not (self._memorize(name, argument) or self._collect(name)):
                self._make(name, argument)
        return self.stack.pop()

    def _memorize(self, name: str, argument: Any) -> bool:
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
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
            stack.append({"T": (), "L": [], "D": {}}[name[6]])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [self._pop() for _ in range(int(name[-1]))]
            stack.append(tuple(items[::-1]))
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self._pop_mark()
            self.stack.append({"T": tuple, "L": list, "D": _pairs}[name[0]](items))
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._pop_mark()
            _top(self.stack, list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._pop_mark()
            _top(self.stack, dict).update(_pairs(items))
        else:
            return False
        return True

    def _make(self, name: str, argument: Any) -> None:
        """Opcodes of names, calls and states; of them, those that numpy's pickles have."""
        if name in ("NEWTRUE", "NEWFALSE"):
            self.stack.append(name == "NEWTRUE")
        elif name == "GLOBAL":
            self.stack.append(_admit(argument.replace(" ", ".")))
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

    def _pop(self) -> Any:
        return self.stack.pop()

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _call(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, _Global) else ""
        short = name.rpartition(".")[2]
        if short == "encode":
            text, encoding = arguments
            if encoding not in ("latin1", "latin-1"):
                raise _Refused(f"asks for the encoding {_show(encoding)}")
            return self._bytes(text)
        if short == "dtype":
            return _dtype(*arguments)
        if short == "_reconstruct":
            return _Array()  # the arguments only ask for an empty array; the state has the shape
        if short == "scalar":
            dtype, raw = arguments
            return _Array(self._array((), dtype, raw, "C"))
        if short == "_frombuffer":
            raw, dtype, shape, order = arguments
            return _Array(self._array(shape, dtype, raw, order))
        raise _Refused(f"calls {name or _show(function)}")

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, _Array):
            _version, shape, dtype, is_fortran, raw = state
            target.value = self._array(shape, dtype, raw, "F" if is_fortran else "C")
        elif isinstance(target, _Dtype):
            order, *fields = state[1:5]
            if order not in ("<", ">", "|", "=") or any(field is not None for field in fields):
                raise _Refused("has arrays of a composed type")
            target.order = order
        else:
            raise _Refused(f"sets the state of {_show(target)}")

    def _array(self, shape: Any, dtype: Any, raw: Any, order: str) -> np.ndarray:
        """A new array in this machine's byte order; ``raw`` must have exactly its bytes."""
        if not isinstance(dtype, _Dtype):
            raise _Refused(f"has an array whose type is {_show(dtype)}")
        is_shape = isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS
        if not is_shape or not all(isinstance(n, int) and 0 <= n < 2**62 for n in shape):
            raise _Refused("has an array whose shape is no tuple of sizes")
        kind = np.dtype(dtype.code).newbyteorder(dtype.order)
        raw = self._bytes(raw)
        if math.prod(shape) * kind.itemsize != len(raw):
            raise _Refused(
                f"has an array of shape {shape} and type {dtype.code} with {len(raw)} bytes "
                "of content"
            )
        array = np.frombuffer(raw, kind).reshape(shape, order="F" if order == "F" else "C")
        return np.array(array, dtype=kind.newbyteorder("="), order="C")

    def _bytes(self, raw: Any) -> bytes:
        """Text of Python 2 as bytes; charged, as a file may use one text many times."""
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


def _dtype(code: Any, *_flags: Any) -> _Dtype:
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise _Refused(f"has arrays of the type {_show(code)}")
    return _Dtype(code[-2:], code[0] if len(code) == 3 else "=")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    if not all(isinstance(key, (str, int)) for key in keys):
        raise _Refused("has a dict whose keys are no names")
    return dict(zip(keys, items[1::2], strict=True))


def _top(stack: list[Any], kind: type) -> Any:
    if not isinstance(stack[-1], kind):
        raise _Refused(f"fills {_show(stack[-1])} as if it were a {kind.__name__}")
    return stack[-1]


def _value(name: Any, blob: Any) -> Any:
    if isinstance(blob, _Array):
        if blob.value is None:
            raise ValueError(f"the array {name} has no content")
        return blob.value
    if blob is None or isinstance(blob, (str, int, float, bytes)):
        return blob
    raise _Refused(f"holds {_show(blob)} where the array {name} is due")


def _show(value: Any) -> str:
    """For messages: a short text as it is, of everything else (it may be endless) the type."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
