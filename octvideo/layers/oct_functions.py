"""What torch's functions do with octave values: the table of ``OctTensor``, by name."""

from collections.abc import Iterable
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from octvideo.layers.layout import Layout, Runs, concatenated, in_order, put, spread, take
from octvideo.layers.oct_tensor import (
    IN_PLACE,
    OUT_OF_PLACE,
    TABLE,
    Arg,
    Args,
    Func,
    Kwargs,
    OctTensor,
    Value,
    convert,
    maps_of,
    out_of_place,
    report_merge,
)
from octvideo.layers.resample import half_size


def _each(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Functions of single pixels and channels."""
    x, *rest = args
    others = [arg for arg in (*rest, *kwargs.values()) if isinstance(arg, Tensor)]
    if not isinstance(x, OctTensor) or any(arg.numel() > 1 for arg in others):
        return NotImplemented  # such as bounds or exponents of each channel
    x.forget_pooled()  # perhaps it is done in place
    return x.map(func, *rest, **kwargs)


_MAX_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_MEAN_OPTIONS = (*_MAX_OPTIONS[:3], "ceil_mode", "count_include_pad", "divisor_override")
_SIZE_OPTIONS = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")


def _named(names: tuple[str, ...], values: Iterable[Arg], kwargs: Kwargs) -> Kwargs:
    return {**dict(zip(names, values, strict=False)), **kwargs}


def _max_window(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    options = _named(_MAX_OPTIONS, args[1:], kwargs)
    if options.get("return_indices"):  # places in a map of their own
        return NotImplemented
    return _window(func, args[0], options, {"ceil_mode": True})


def _mean_window(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    options = _named(_MEAN_OPTIONS, args[1:], kwargs)
    return _window(func, args[0], options, {"ceil_mode": True, "count_include_pad": False})


def _window(func: Func, x: OctTensor, options: Kwargs, ceil: dict[str, bool]) -> Arg:
    """Pooling. The low map keeps half the size of the high one, rounded up.

    A window as large as the map gives one pixel of each channel: [L | H].

    A window that torch would drop at the border of the low map is the last, smaller one there.
    """
    high = func(x.high, **options)
    if x.low is None:
        return OctTensor(high, None)
    if high.shape[-2:].numel() == 1 and (whole := _whole_map(x, options)):
        return in_order(func(x.low, **whole), high, x.order)
    want = half_size(high.shape)[2:]
    low = func(x.low, **options)
    if low.shape[2:] != want:
        low = func(x.low, **{**options, **ceil})[..., : want[-2], : want[-1]]
    return OctTensor(high, low, x.layout) if low.shape[2:] == want else NotImplemented


def _whole_map(x: OctTensor, options: Kwargs) -> Kwargs | None:
    """Returns the options for the low map, where the window is as large as the high map."""
    window = options["kernel_size"]
    window = (window,) * (x.dim() - 2) if isinstance(window, int) else tuple(window)
    if window[-2:] != tuple(x.shape[-2:]):
        return None
    stride = options.get("stride") or window
    stride = (stride,) * len(window) if isinstance(stride, int) else tuple(stride)
    size = tuple(x.low.shape[-2:])  # type: ignore[union-attr]
    return {**options, "kernel_size": window[:-2] + size, "stride": stride[:-2] + size}


def _interpolate(func: Func, args: Args, kwargs: Kwargs) -> OctTensor:
    x, options = args[0], _named(_SIZE_OPTIONS, args[1:], kwargs)
    high = func(x.high, **options)
    if x.low is None:
        return OctTensor(high, None)
    options.update(size=[*half_size(high.shape)[2:]], scale_factor=None)
    return OctTensor(high, func(x.low, **options), x.layout)


def _binary(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Sums, products and their like, of which one or both are octave values."""
    a, b, *rest = args
    if isinstance(a, OctTensor) and isinstance(b, OctTensor):
        if a.low is None or b.low is None:  # leaving the octave is what the network decided
            return func(a.merged(), b.merged(), *rest, **kwargs)
        if a.layout != b.layout and a.layout and b.layout and a.layout.total == b.layout.total:
            report_merge(func, b)
            b = convert(b, a.channels.low, a.layout)
        if a.channels != b.channels:
            return NotImplemented
        a.forget_pooled()  # perhaps a sum in place
        high = func(a.high, b.high, *rest, **kwargs)
        return OctTensor(high, func(a.low, b.low, *rest, **kwargs), a.layout)
    x, other = (a, b) if isinstance(a, OctTensor) else (b, a)
    is_map = isinstance(other, Tensor) and (other.shape == x.shape or other.shape[-2:].numel() > 1)
    if x.low is None and is_map:
        return func(*(x.high if arg is x else arg for arg in (a, b)), *rest, **kwargs)
    parts = _split(other, x)
    if parts is None:
        return NotImplemented
    if other is a:  # what is split off it is no place for a result
        func = out_of_place(func)
    x.forget_pooled()
    other_h, other_l = parts

    def run(p: Arg, q: Arg) -> Tensor:
        return func(*((p, q) if x is a else (q, p)), *rest, **kwargs)

    low = None if x.low is None else run(x.low, other_l)
    return OctTensor(run(x.high, other_h), low, x.layout)


def _split(other: Arg, x: OctTensor) -> Arg:
    """The part of a number, a gate or a map for x.high, and the one for x.low."""
    if not isinstance(other, Tensor) or other.ndim == 0:
        return other, other
    low, total = x.channels.low, x.channels.total
    if other.shape == x.shape:
        if not other.is_floating_point():  # a mask, of which pooling needs shares
            other = other.to(x.high.dtype)
        low_part, *high_part = maps_of(convert(other, low, x.layout))
        return (*high_part, low_part)
    axis = x.dim() - 1  # of the channels, counted from the end
    channels = other.shape[-axis] if other.ndim >= axis else 1
    if other.shape[-2:].numel() != 1 or channels not in (1, total):
        return None
    if channels == 1:
        return other, other
    order = x.order
    return take(other, order.high, -axis), take(other, order.low, -axis)


def _concatenate(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Along the channels: L to L, and H, where a plain map belongs too, to H."""
    values, *rest = args
    options = _named(("dim",), rest, kwargs)
    if options.get("dim", 0) not in (1, -(values[0].dim() - 1)):
        return NotImplemented
    octave = [value for value in values if isinstance(value, OctTensor)]
    high = func([v.high if isinstance(v, OctTensor) else v for v in values], **options)
    lows = [value.low for value in octave if value.low is not None]
    if not lows:
        return high
    layout = None
    if all(value.layout for value in octave if value.low is not None):
        layout = concatenated([_layout_of(value) for value in values])
    return OctTensor(high, func(lows, **options), layout)


def _layout_of(x: Value) -> Layout:
    return spread(x.shape[1], 0) if isinstance(x, Tensor) else x.order


def _mean(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Over space: [mean(L) | mean(H)]."""
    x, *rest = args
    options = _named(("dim", "keepdim"), rest, kwargs)
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
    return high if x.low is None else in_order(func(x.low, **options), high, x.order)


def _per_channel(func: Func, args: Args, kwargs: Kwargs) -> OctTensor:
    """Functions with parameters of each channel: batch norm, instance norm, PReLU."""
    x: OctTensor = args[0]
    order = x.order

    def run(part: Tensor, runs: Runs) -> Tensor:
        def cut(arg: Arg) -> Arg:
            if not isinstance(arg, Tensor) or arg.shape != (order.total,):
                return arg
            # Running statistics are updated in place: written back, not into views.
            is_view = order.is_first or arg.requires_grad
            return take(arg, runs) if is_view else take(arg, runs).clone()

        given = (*args[1:], *kwargs.values())
        taken = [cut(arg) for arg in given]
        y = func(
            part, *taken[: len(args) - 1], **dict(zip(kwargs, taken[len(args) - 1 :], strict=True))
        )
        for whole, copy in zip(given, taken, strict=True):
            if not order.is_first and copy is not whole and not whole.requires_grad:
                put(whole, copy, runs)
        return y

    low = None if x.low is None else run(x.low, order.low)
    return OctTensor(run(x.high, order.high), low, x.layout)


def _group_norm(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Groups that are wholly low or wholly high, the low ones first."""
    x, *rest = args
    names = ("num_groups", "weight", "bias", "eps")
    options = _named(names, rest, kwargs)
    if x.low is None:
        return OctTensor(func(x.high, **options), None)
    groups, order = options["num_groups"], x.order
    size = order.total // groups
    if not order.is_first or order.num_low % size:
        return NotImplemented

    def run(part: Tensor, start: int, stop: int) -> Tensor:
        affine = {k: options[k][start:stop] for k in names[1:3] if options.get(k) is not None}
        return func(part, **{**options, **affine, "num_groups": (stop - start) // size})

    low = run(x.low, 0, order.num_low)
    return OctTensor(run(x.high, order.num_low, order.total), low, x.layout)


def _narrow(x: OctTensor, start: int, stop: int) -> Value:
    """Returns some of the channels; a tensor where none of them is low."""
    order = x.order
    before = order.section(0, start).num_low
    layout = order.section(start, stop)
    high = x.high[:, start - before : stop - before - layout.num_low]
    if x.low is None:
        return OctTensor(high, None)
    if not layout.low:
        return high
    low = x.low[:, before : before + layout.num_low]
    return OctTensor(high, low, layout if x.layout or not layout.is_first else None)


def _get_item(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    borders = borders_of(func, args, kwargs)
    return _parts(args[0], borders)[0] if borders else NotImplemented


def borders_of(func: Func, args: Args, kwargs: Kwargs) -> list[int]:
    """Returns where a function cuts the channels of its input; [] where it does not.

    ``split``, ``chunk``, and x[:, a:b], also with ``...`` or further ``:`` behind.
    """
    rule = TABLE.get(func.__name__)
    if rule is _get_item:
        return _item_borders(*args)
    return _split_borders(func, args, kwargs) if rule is _split_channels else []


def _item_borders(x: Value, key: Arg) -> list[int]:
    if not isinstance(key, tuple) or len(key) < 2 or not isinstance(key[1], slice):
        return []
    everything = (slice(None), Ellipsis)
    if key[0] != slice(None) or any(k not in everything for k in key[2:]):
        return []
    start, stop, step = key[1].indices(x.shape[1])
    return [start, stop] if step == 1 and start < stop else []


def _parts(x: OctTensor, borders: list[int]) -> Arg:
    """Returns the channels between borders, or NotImplemented where a part has no high one."""
    pairs = [*pairwise(borders)]
    layouts = [x.order.section(start, stop) for start, stop in pairs]
    if any(layout.num_low == layout.total for layout in layouts):
        return [NotImplemented] if len(pairs) == 1 else NotImplemented
    return tuple(_narrow(x, start, stop) for start, stop in pairs)


def _split_channels(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    borders = borders_of(func, args, kwargs)
    return _parts(args[0], borders) if borders else NotImplemented


def _split_borders(func: Func, args: Args, kwargs: Kwargs) -> list[int]:
    x, *rest = args
    options = _named(("size", "dim"), rest, kwargs)
    sizes = options.pop("size", None) or next(v for k, v in options.items() if k != "dim")
    if options.get("dim", 0) not in (1, 1 - x.dim()):
        return []
    if not isinstance(sizes, int):
        return [0, *accumulate(sizes)]
    total = x.shape[1]
    each = -(-total // sizes) if func.__name__ == "chunk" else sizes
    return [*range(0, total, each), total]


def _empty(func: Func, args: Args, kwargs: Kwargs) -> Arg:
    """Functions that take only the type and the device of their tensor."""
    return func(args[0].high, *args[1:], **kwargs)


_RULES: dict[Func, str] = {
    _each: (
        "abs alpha_dropout bfloat16 celu clamp clone contiguous cpu cuda data detach double "
        "dropout dropout1d dropout2d dropout3d elu exp feature_alpha_dropout feature_dropout float "
        "gelu half hardsigmoid hardswish hardtanh leaky_relu log mish neg pow relu relu6 rrelu "
        "selu sigmoid silu softplus softsign sqrt square tanh tanhshrink threshold to type"
    ),
    _binary: "add sub rsub mul multiply div divide true_divide truediv maximum minimum expand_as",
    _max_window: "max_pool2d max_pool3d",
    _mean_window: "avg_pool2d avg_pool3d",
    _interpolate: "interpolate upsample",
    _concatenate: "cat concat concatenate",
    _mean: "mean",
    _pool_to_one: "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d",
    _per_channel: "batch_norm instance_norm prelu",
    _group_norm: "group_norm",
    _get_item: "getitem",
    _split_channels: "chunk split",
    _empty: "new_empty new_full new_ones new_tensor new_zeros is_floating_point is_complex",
}
for _rule, _names in _RULES.items():
    for _name in _names.split():
        IN_PLACE[f"{_name}_"] = True
        # torch has most of them also in place, and operators under names of their own.
        for _form in (_name, f"{_name}_", f"__{_name}__", f"__i{_name}__", f"__r{_name}__"):
            TABLE[_form] = _rule
        if (function := getattr(Tensor, _name, None) or getattr(torch, _name, None)) is not None:
            OUT_OF_PLACE[f"{_name}_"] = OUT_OF_PLACE[f"__i{_name}__"] = function

# What gives a map with the channels of its input, each made of its own.
CHANNELWISE = frozenset(
    name
    for name, rule in TABLE.items()
    if rule in (_each, _binary, _max_window, _mean_window, _interpolate, _per_channel, _group_norm)
)
