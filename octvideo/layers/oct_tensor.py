"""Octave values, and what torch's functions do with them.

An octave value holds part of its channels at half the spatial resolution:

    high  (N, c_h, [T,] H, W)
    low   (N, c_l, [T,] ceil(H/2), ceil(W/2))        the octave is in space only

Its channels are ordered [L | H], as those of the weights. A network that is written for tensors
runs on octave values unchanged, because every torch function that meets one looks itself up here:

    elementwise, dropout, pooling, interpolation   act on each frequency
    a + b, a * b of two octave values              act on each frequency
    octave + plain                                 the plain one is split and pooled first
    octave + one that has left the octave          the octave one is merged first
    plain.add_(octave), plain += octave            the octave one is merged first
    octave * a gate per channel                    the gate is split
    mean over space, pooling to one pixel          [mean(L) | mean(H)]
    concatenation of channels                      L to L, H to H; a plain map goes to H
    some of the channels                           those of L, and those of H
    group norm of whole groups                     acts on each frequency
    everything else                                sees one tensor, [upsampled L | H]

The last line costs what the octave saves. Inside ``strict()`` it is an error instead, and inside
``merges_to()`` somebody hears of it.

In a network that was not written for octaves, values know their ``layout``: behind a concatenation
the low channels are no longer the first ones of the tensor, and yet every weight keeps its place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from octvideo.layers.channels import Channels
from octvideo.layers.eager import is_recorded
from octvideo.layers.layout import Layout, in_order, spread, take
from octvideo.layers.resample import pool, upsample

Arg = Any  # what functions of torch take and return: values, numbers, sizes, lists of them
Args = tuple[Arg, ...]
Kwargs = dict[str, Arg]
Func = Callable[..., Arg]
TABLE: dict[str, Func] = {}  # what functions do, by name; filled by oct_functions
IN_PLACE: dict[str, bool] = {}  # methods that write into their tensor
OUT_OF_PLACE: dict[str, Func] = {}  # for functions that work in place, by name
_strict = False
_listener: Callable[[str], None] | None = None


class MergeError(RuntimeError):
    """A function would merge an octave value. (Python hides a TypeError of an operator.)"""


@contextmanager
def strict() -> Iterator[None]:
    """Raises MergeError inside the context where a function would merge an octave value."""
    global _strict
    before, _strict = _strict, True
    try:
        yield
    finally:
        _strict = before


@contextmanager
def merges_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Calls ``listener`` inside the context with the name of each function that merges a value."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class OctTensor:
    """Maps ``high`` and ``low``, which unpack like a pair and otherwise act as one tensor.

    ``shape`` is that of the merged tensor: all channels at the high resolution. Where ``low`` is
    None, the value has left the octave: it is the plain result of an octave convolution, and
    the first sum or unknown function makes a plain tensor of it. ``layout`` says which channels
    of that tensor are low; None: the first ones, also behind a concatenation.
    """

    __slots__ = ("_pooled", "high", "layout", "low")

    def __init__(self, high: Tensor, low: Tensor | None, layout: Layout | None = None) -> None:
        self.high, self.low = high, low
        self.layout = None if low is None else layout
        self._pooled: Tensor | None = None

    def __iter__(self) -> Iterator[Arg]:
        if _listener is not None:  # a network of tensors would expect samples
            _listener("__iter__")
        yield self.high
        yield self.low  # None where the value has left the octave

    @property
    def channels(self) -> Channels:
        return Channels(self.high.shape[1], 0 if self.low is None else self.low.shape[1])

    @property
    def shape(self) -> torch.Size:
        n, _, *size = self.high.shape
        return torch.Size((n, self.channels.total, *size))

    @property
    def order(self) -> Layout:
        """Its layout, also where it is [L | H] by default."""
        return self.layout or spread(self.channels.total, self.channels.low)

    def merged(self) -> Tensor:
        """Returns one tensor at the high resolution, of [upsampled L | H] along the channels."""
        if self.low is None:
            return self.high
        return in_order(upsample(self.low, self.high.shape[-2:]), self.high, self.order)

    def pooled(self) -> Tensor:
        """Returns pool(high), computed once: all branches of a block share it."""
        if self._pooled is None:
            self._pooled = pool(self.high)
        return self._pooled

    def forget_pooled(self) -> None:
        """Drops pool(high): to be called where ``high`` is overwritten."""
        self._pooled = None

    def map(self, fn: Callable[..., Tensor], *args: Arg, **kwargs: Arg) -> "OctTensor":
        """Returns fn(high, ...) and fn(low, ...)."""
        low = None if self.low is None else fn(self.low, *args, **kwargs)
        return OctTensor(fn(self.high, *args, **kwargs), low, self.layout)

    @classmethod
    def __torch_function__(
        cls, func: Func, types: Arg, args: Args = (), kwargs: Kwargs | None = None
    ) -> Arg:
        return _call(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Arg:
        """Finds the methods and attributes of a tensor."""
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"an OctTensor has no attribute {name!r}")
        member = getattr(Tensor, name)
        if callable(member):
            return partial(_call_method, member, self)
        value = getattr(self.high, name)
        return _call(_attribute(name), (self,), {}) if isinstance(value, Tensor) else value

    def __len__(self) -> int:
        return len(self.high)

    def size(self, dim: int | None = None) -> Arg:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.high.ndim

    if TYPE_CHECKING:
        __add__: Func
        __mul__: Func

    def __getitem__(self, key: Arg) -> Arg:
        return _call(Tensor.__getitem__, (self, key), {})

    def __setitem__(self, key: Arg, value: Arg) -> None:
        _call(Tensor.__setitem__, (self, key, value), {})

    def __repr__(self) -> str:
        low = "left" if self.low is None else tuple(self.low.shape)
        return f"OctTensor(high={tuple(self.high.shape)}, low={low})"


def _operator(func: Func) -> Func:
    def call(self: OctTensor, *args: Arg) -> Arg:
        return _call(func, (self, *args), {})

    return call


_OPERATORS = (
    "abs add and eq floordiv ge gt iadd imul invert isub itruediv le lt matmul mod mul ne neg or "
    "pow radd rmatmul rmul rpow rsub rtruediv sub truediv xor"
)
for _name in _OPERATORS.split():
    setattr(OctTensor, f"__{_name}__", _operator(getattr(Tensor, f"__{_name}__")))


Value = Tensor | OctTensor


def maps_of(x: Value | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Returns the maps of a value in the order of its channels, [L | H]; a tensor is one map."""
    if isinstance(x, Tensor):
        return (x,)
    high, low = (x.high, x.low) if isinstance(x, OctTensor) else x
    return (high,) if low is None else (low, high)


def merge(x: Value | tuple[Tensor, Tensor]) -> Tensor:
    """Returns one tensor at the high resolution, [upsampled L | H] along the channels."""
    if isinstance(x, Tensor):
        return x
    return (x if isinstance(x, OctTensor) else OctTensor(*x)).merged()


def convert(x: Value | tuple[Tensor, Tensor], low: int, layout: Layout | None = None) -> Value:
    """Returns x with this many low channels: as it is, merged, or split.

    A plain tensor is split without arithmetic but for pooling: its first channels become L, or
    those of ``layout``.
    """
    if not isinstance(x, Tensor):
        x = x if isinstance(x, OctTensor) else OctTensor(*x)
        if x.channels.low == low and (not low or x.layout == layout):
            return x
        x = x.merged()
    if not low:
        return x
    order = layout or spread(x.shape[1], low)
    return OctTensor(take(x, order.high, 1), pool(take(x, order.low, 1)), layout)


def per_frequency(fn: Callable[..., Tensor], *values: Arg) -> Arg:
    """Applies ``fn`` to the high and to the low parts of pairs or octave values; else just once."""
    if isinstance(values[0], Tensor):
        return fn(*values)
    pairs = [(x.high, x.low) if isinstance(x, OctTensor) else x for x in values]
    high, low = zip(*pairs, strict=True)
    parts = fn(*high), fn(*low)
    first = values[0]
    return OctTensor(*parts, first.layout) if isinstance(first, OctTensor) else parts


def _call_method(member: Func, x: OctTensor, *args: Arg, **kwargs: Arg) -> Arg:
    return _call(member, (x, *args), kwargs)


def _call(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Looks the function up by its name, as torch has it in up to three places."""
    if not args:
        args = tuple(kwargs.pop(name) for name in ("input", "tensors") if name in kwargs)
    is_merged = "out" in kwargs or _writes_into_tensor(func, args)
    rule = None if is_merged else TABLE.get(func.__name__)
    called = func
    if is_recorded():  # exporters may lose what is written into one of two maps
        called, kwargs = out_of_place(func), {k: v for k, v in kwargs.items() if k != "inplace"}
    result = NotImplemented if rule is None else rule(called, args, kwargs)
    if result is NotImplemented:
        merged = [_plain(arg, func) for arg in args]
        options = {name: _plain(value, func) for name, value in kwargs.items()}
        result = func(*merged, **options)
        written: list[tuple[Arg, Arg]] = [(kwargs.get("out"), options.get("out"))]
        if args and works_in_place(func, kwargs):
            written.append((args[0], merged[0]))
        for x, tensor in written:
            if isinstance(x, OctTensor):  # the merged tensor alone has what was written
                x.high, x.low, x.layout = tensor, None, None
                x.forget_pooled()
        return result
    if called is not func and isinstance(args[0], OctTensor) and isinstance(result, OctTensor):
        # The value itself changes, for those who do not take the result.
        args[0].high, args[0].low, args[0].layout = result.high, result.low, result.layout
    return result


def _attribute(name: str) -> Func:
    """Returns a function for what a tensor has as an attribute, such as ``x.T``."""

    def get(x: Tensor) -> Arg:
        return getattr(x, name)

    get.__name__ = name
    return get


# A dictionary of names, because compilers can look a name up and cannot take it apart.
_IN_PLACE = dict.fromkeys(
    [
        *("__iadd__", "__imul__", "__isub__", "__itruediv__", "__setitem__"),
        *(
            name
            for owner in (Tensor, torch, torch.nn.functional, torch.nn.init)
            for name in dir(owner)
            if name.endswith("_") and not name.endswith("__")
        ),
    ],
    True,
)


def works_in_place(func: Func, kwargs: Kwargs) -> bool:
    """Whether a function that nobody has listed writes into its first argument."""
    return _IN_PLACE.get(func.__name__, False) or bool(kwargs.get("inplace"))


def _writes_into_tensor(func: Func, args: Args) -> bool:
    """Whether a method works in place on a plain tensor, whose owner need not take the result.

    An operator, as in ``x += y``, is such a method, too.
    """
    return IN_PLACE.get(func.__name__, False) and bool(args) and isinstance(args[0], Tensor)


def out_of_place(func: Func) -> Func:
    """Returns the function that does the same and leaves its arguments as they are."""
    return OUT_OF_PLACE.get(func.__name__, func)


def _plain(arg: Arg, func: Func) -> Arg:
    if isinstance(arg, OctTensor):
        if arg.low is not None:
            report_merge(func, arg)
        return arg.merged()
    if isinstance(arg, (tuple, list)):
        return type(arg)(_plain(item, func) for item in arg)
    return arg


def report_merge(func: Func, x: OctTensor) -> None:
    if _strict:
        raise MergeError(f"{func.__name__} would merge the frequencies of {x}")
    if _listener is not None:
        _listener(func.__name__)
