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
    octave * a gate per channel                    the gate is split
    mean over space, pooling to one pixel          [mean(L) | mean(H)]
    concatenation of channels                      L to L, H to H; a plain map goes to H
    everything else                                sees one tensor, [upsampled L | H]

The last line costs what the octave saves. Inside ``strict()`` it is an error instead.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from octvideo.layers.channels import Channels
from octvideo.layers.eager import is_recorded
from octvideo.layers.resample import half_size, pool, upsample

Arg = Any  # what functions of torch take and return: values, numbers, sizes, lists of them
Args = tuple[Arg, ...]
Kwargs = dict[str, Arg]
Func = Callable[..., Arg]
_strict = False


@contextmanager
def strict() -> Iterator[None]:
    """Raises TypeError inside the context where a function would merge an octave value."""
    global _strict
    before, _strict = _strict, True
    try:
        yield
    finally:
        _strict = before


class OctTensor:
    """Maps ``high`` and ``low``, which unpack like a pair and otherwise act as one tensor.

    ``shape`` is that of the merged tensor: all channels at the high resolution. Where ``low`` is
    None, the value has left the octave: it is the plain result of an octave convolution, and
    the first sum or unknown function makes a plain tensor of it.
    """

    __slots__ = ("_pooled", "high", "low")

    def __init__(self, high: Tensor, low: Tensor | None) -> None:
        self.high, self.low = high, low
        self._pooled: Tensor | None = None

    def __iter__(self) -> Iterator[Arg]:
        yield self.high
        yield self.low  # None where the value has left the octave

    @property
    def channels(self) -> Channels:
        return Channels(self.high.shape[1], 0 if self.low is None else self.low.shape[1])

    @property
    def shape(self) -> torch.Size:
        n, _, *size = self.high.shape
        return torch.Size((n, self.channels.total, *size))

    def merged(self) -> Tensor:
        """Returns one tensor at the high resolution, [upsampled L | H] along the channels."""
        if self.low is None:
            return self.high
        return torch.cat([upsample(self.low, self.high.shape[-2:]), self.high], dim=1)

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
        return OctTensor(fn(self.high, *args, **kwargs), low)

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
        return getattr(self.high, name)

    def size(self, dim: int | None = None) -> Arg:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.high.ndim

    def __add__(self, other: Arg) -> Arg:
        return _call(torch.add, (self, other), {})

    def __radd__(self, other: Arg) -> Arg:
        return _call(torch.add, (other, self), {})

    def __sub__(self, other: Arg) -> Arg:
        return _call(torch.sub, (self, other), {})

    def __mul__(self, other: Arg) -> Arg:
        return _call(torch.mul, (self, other), {})

    __rmul__ = __mul__

    def __truediv__(self, other: Arg) -> Arg:
        return _call(torch.div, (self, other), {})

    def __iadd__(self, other: Arg) -> Arg:
        return _call(Tensor.add_, (self, other), {})

    def __imul__(self, other: Arg) -> Arg:
        return _call(Tensor.mul_, (self, other), {})

    def __getitem__(self, key: Arg) -> Arg:
        return _call(Tensor.__getitem__, (self, key), {})

    def __repr__(self) -> str:
        low = "left" if self.low is None else tuple(self.low.shape)
        return f"OctTensor(high={tuple(self.high.shape)}, low={low})"


Value = Tensor | OctTensor


def maps_of(x: Value | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Returns the maps of a value in the order of its channels, [L | H]; a tensor is one map."""
    if isinstance(x, Tensor):
        return (x,)
    high, low = x
    return (high,) if low is None else (low, high)


def merge(x: Value | tuple[Tensor, Tensor]) -> Tensor:
    """Returns one tensor at the high resolution, [upsampled L | H] along the channels."""
    if isinstance(x, Tensor):
        return x
    return (x if isinstance(x, OctTensor) else OctTensor(*x)).merged()


def convert(x: Value | tuple[Tensor, Tensor], low: int) -> Value:
    """Returns x with this many low channels: as it is, merged, or split.

    A plain tensor is split without arithmetic but for pooling: its first channels become L.
    """
    if not isinstance(x, Tensor):
        x = x if isinstance(x, OctTensor) else OctTensor(*x)
        if x.channels.low == low:
            return x
        x = x.merged()
    return OctTensor(x[:, low:], pool(x[:, :low])) if low else x


def per_frequency(fn: Callable[..., Tensor], *values: Arg) -> Arg:
    """Applies ``fn`` to the high and to the low parts of pairs or octave values; else just once."""
    if isinstance(values[0], Tensor):
        return fn(*values)
    high, low = zip(*values, strict=True)
    parts = fn(*high), fn(*low)
    return OctTensor(*parts) if isinstance(values[0], OctTensor) else parts


def _call_method(member: Func, x: OctTensor, *args: Arg, **kwargs: Arg) -> Arg:
    return _call(member, (x, *args), kwargs)


def _call(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Looks the function up by its name, as torch has it in up to three places."""
    if is_recorded():  # exporters may lose what is written into one of two maps
        func, kwargs = _out_of_place(func), {k: v for k, v in kwargs.items() if k != "inplace"}
    rule = _TABLE.get(func.__name__)
    result = NotImplemented if rule is None else rule(func, args, kwargs)
    if result is not NotImplemented:
        return result
    merged = [_plain(arg, func) for arg in args]
    return func(*merged, **{name: _plain(value, func) for name, value in kwargs.items()})


def _plain(arg: Arg, func: Func) -> Arg:
    if isinstance(arg, OctTensor):
        if _strict and arg.low is not None:
            raise TypeError(f"{func.__name__} would merge the frequencies of {arg}")
        return arg.merged()
    if isinstance(arg, (tuple, list)):
        return type(arg)(_plain(item, func) for item in arg)
    return arg


def _each(func: Func, args: Args, kwargs: Kwargs) -> OctTensor:
    """Functions of single pixels and channels."""
    x: OctTensor = args[0]
    x.forget_pooled()  # perhaps it is done in place
    return x.map(func, *args[1:], **kwargs)


def _max_window(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    return _window(func, args, kwargs, {"ceil_mode": True})


def _mean_window(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    return _window(func, args, kwargs, {"ceil_mode": True, "count_include_pad": False})


def _window(func: Func, args: Args, kwargs: Kwargs, ceil: dict[str, bool]) -> Arg:
    """Pooling. The low map keeps half the size of the high one, rounded up.

    A window that torch would drop at the border of the low map is the last, smaller one there.
    """
    x, *rest = args
    high = func(x.high, *rest, **kwargs)
    if x.low is None:
        return OctTensor(high, None)
    want = half_size(high.shape)[2:]
    low = func(x.low, *rest, **kwargs)
    if low.shape[2:] != want:
        low = func(x.low, *rest, **{**kwargs, **ceil})[..., : want[-2], : want[-1]]
    return OctTensor(high, low) if low.shape[2:] == want else NotImplemented


def _interpolate(func: Func, args: Args, kwargs: Kwargs) -> OctTensor:
    x, *rest = args
    options = {**dict(zip(("size", "scale_factor"), rest, strict=False)), **kwargs}
    high = func(x.high, **options)
    if x.low is None:
        return OctTensor(high, None)
    options.update(size=[*half_size(high.shape)[2:]], scale_factor=None)
    return OctTensor(high, func(x.low, **options))


def _binary(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Sums, products and their like, of which one or both are octave values."""
    a, b, *rest = args
    if isinstance(a, OctTensor) and isinstance(b, OctTensor):
        if a.low is None or b.low is None:  # leaving the octave is what the network decided
            return func(a.merged(), b.merged(), *rest, **kwargs)
        if a.channels != b.channels:
            return NotImplemented
        a.forget_pooled()  # perhaps a sum in place
        return OctTensor(*(func(p, q, *rest, **kwargs) for p, q in zip(a, b, strict=True)))
    x, other = (a, b) if isinstance(a, OctTensor) else (b, a)
    is_map = isinstance(other, Tensor) and (other.shape == x.shape or other.shape[-2:].numel() > 1)
    if x.low is None and is_map:
        return func(*(x.high if arg is x else arg for arg in (a, b)), *rest, **kwargs)
    parts = _split(other, x)
    if parts is None:
        return NotImplemented
    if other is a:  # what is split off it is no place for a result
        func = _out_of_place(func)
    x.forget_pooled()
    other_h, other_l = parts

    def run(p: Arg, q: Arg) -> Tensor:
        return func(*((p, q) if x is a else (q, p)), *rest, **kwargs)

    return OctTensor(run(x.high, other_h), None if x.low is None else run(x.low, other_l))


def _split(other: Arg, x: OctTensor) -> Arg:
    """The part of a number, a gate or a map for x.high, and the one for x.low."""
    if not isinstance(other, Tensor) or other.ndim == 0:
        return other, other
    low, total = x.channels.low, x.channels.total
    if other.shape == x.shape:
        return convert(other, low)
    axis = x.dim() - 1  # of the channels, counted from the end
    channels = other.shape[-axis] if other.ndim >= axis else 1
    if other.shape[-2:].numel() != 1 or channels not in (1, total):
        return None
    if channels == 1:
        return other, other
    gate_l, gate_h = other.split([low, total - low], dim=-axis)
    return gate_h, gate_l


def _out_of_place(func: Func) -> Func:
    return _OUT_OF_PLACE.get(func.__name__, func)


def _concatenate(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Along the channels: L to L, and H, where a plain map belongs too, to H."""
    values, *rest = args
    options = {**dict(zip(("dim",), rest, strict=False)), **kwargs}
    if options.get("dim", 0) not in (1, -(values[0].dim() - 1)):
        return NotImplemented
    octave = [value for value in values if isinstance(value, OctTensor)]
    high = func([v.high if isinstance(v, OctTensor) else v for v in values], **options)
    lows = [value.low for value in octave if value.low is not None]
    return OctTensor(high, func(lows, **options)) if lows else high


def _mean(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Over space: [mean(L) | mean(H)]."""
    x, *rest = args
    options = {**dict(zip(("dim", "keepdim"), rest, strict=False)), **kwargs}
    dims = options.get("dim")
    axes = {d % x.dim() for d in ((dims,) if isinstance(dims, int) else dims or ())}
    if not {x.dim() - 2, x.dim() - 1} <= axes or axes & {0, 1}:
        return NotImplemented
    return _by_channel(func, x, options)


def _pool_to_one(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Adaptive pooling of each map to one pixel: [L | H]."""
    x: OctTensor = args[0]
    size: Arg = kwargs.get("output_size", args[-1])
    if not all(n == 1 for n in ([size] if isinstance(size, int) else size)):
        return NotImplemented
    return _by_channel(func, x, {"output_size": size})


def _by_channel(func: Func, x: OctTensor, options: Kwargs) -> Tensor:
    high = func(x.high, **options)
    return high if x.low is None else torch.cat([func(x.low, **options), high], dim=1)


def _per_channel(func: Func, args: Args, kwargs: Kwargs) -> OctTensor:
    """Functions with parameters of each channel: batch norm, PReLU."""
    x, low = args[0], args[0].channels.low

    def part(which: slice) -> Callable[[Arg], Arg]:
        def cut(arg: Arg) -> Arg:
            is_cut = isinstance(arg, Tensor) and arg.shape == (x.channels.total,)
            return arg[which] if is_cut else arg

        return cut

    def run(tensor: Tensor, cut: Callable[[Arg], Arg]) -> Tensor:
        return func(tensor, *map(cut, args[1:]), **{k: cut(v) for k, v in kwargs.items()})

    y_l = None if x.low is None else run(x.low, part(slice(0, low)))
    return OctTensor(run(x.high, part(slice(low, None))), y_l)


_RULES: dict[Func, str] = {
    _each: (
        "abs alpha_dropout bfloat16 celu clamp clone contiguous cpu cuda detach double dropout "
        "dropout1d dropout2d dropout3d elu exp feature_alpha_dropout feature_dropout float gelu "
        "half hardsigmoid hardswish hardtanh leaky_relu log mish neg pow relu relu6 rrelu selu "
        "sigmoid silu softplus softsign sqrt square tanh tanhshrink threshold to type"
    ),
    _binary: "add sub rsub mul multiply div divide true_divide maximum minimum",
    _max_window: "max_pool2d max_pool3d",
    _mean_window: "avg_pool2d avg_pool3d",
    _interpolate: "interpolate upsample",
    _concatenate: "cat concat concatenate",
    _mean: "mean",
    _pool_to_one: "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d",
    _per_channel: "batch_norm prelu",
}
_TABLE: dict[str, Func] = {}
_OUT_OF_PLACE: dict[str, Func] = {}
for _rule, _names in _RULES.items():
    for _name in _names.split():
        # torch has most of them also in place, and operators under names of their own.
        for _form in (_name, f"{_name}_", f"__{_name}__", f"__i{_name}__", f"__r{_name}__"):
            _TABLE[_form] = _rule
        if out_of_place := getattr(Tensor, _name, None) or getattr(torch, _name, None):
            _OUT_OF_PLACE[f"{_name}_"] = _OUT_OF_PLACE[f"__i{_name}__"] = out_of_place
