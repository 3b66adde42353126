"""Wrong values and arguments: a ValueError that says what a layer takes and what it got."""

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

from octvideo.layers import conv3d_as_2d
from octvideo.layers.channels import Channels
from octvideo.layers.oct_tensor import OctTensor
from octvideo.layers.resample import half_size

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def check_value(x: Any, channels: Channels, ndim: int, layer: nn.Module) -> None:
    """Raises ValueError unless x is a value of these channels with ``ndim`` axes per tensor."""
    is_pair = isinstance(x, OctTensor) or (isinstance(x, (tuple, list)) and len(x) == 2)
    parts: tuple[Any, ...] = (x,)
    if isinstance(x, OctTensor):  # tuple(x) asks for the batch size, which exporters leave open
        parts = (x.high, x.low)
    elif is_pair:
        parts = tuple(x)
    if any(isinstance(part, Proxy) for part in parts):
        return  # torch.fx knows no shapes
    name = type(layer).__name__
    if channels.low and not is_pair:
        raise ValueError(
            f"{name} with {channels.high} high and {channels.low} low channels takes a pair "
            f"(x_h, x_l), got {_describe(x)}"
        )
    if not channels.low and not isinstance(x, Tensor):
        raise ValueError(f"{name} without low channels takes one tensor, got {_describe(x)}")
    for part, count, word in zip(parts, channels, ("high", "low"), strict=False):
        if not isinstance(part, Tensor) or part.ndim != ndim or part.shape[1] != count:
            raise ValueError(
                f"{name} expects {count} {word} channels in a {ndim}-D tensor, "
                f"got {_describe(part)}"
            )
    if len(parts) == 2:
        x_h, x_l = parts
        half = half_size(x_h.shape[2:])
        if x_l.shape[0] != x_h.shape[0] or x_l.shape[2:] != half:
            raise ValueError(
                f"{name}: the low part of {_describe(x_h)} must have its batch size and be "
                f"{tuple(half)} in time and space, got {_describe(x_l)}"
            )


def _describe(x: object) -> str:
    if isinstance(x, Tensor):
        return f"a tensor of shape {tuple(x.shape)}"
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__} of {len(x)}"
    return f"a {type(x).__name__}"


def check_arguments(layer: Any, c_in: Channels) -> None:
    """Raises ValueError unless an octave convolution can take ``c_in`` channels as it is."""
    c_out, name = layer.channels_out, type(layer).__name__
    if min(c_in.high, c_out.high) < 1 or min(c_in.low, c_out.low) < 0:
        raise ValueError(f"{name}: channels {c_in} -> {c_out} leave no high channels")
    if layer.groups < 1:
        raise ValueError(f"{name}: groups must be at least 1, got {layer.groups}")
    if layer.is_depthwise and bool(c_in.low) != bool(c_out.low):
        way, alpha = ("split", "alpha_out=0") if c_out.low else ("join", "alpha_out=alpha_in")
        raise ValueError(
            f"{name}: a depthwise convolution has no path between frequencies, so it cannot "
            f"{way} them: set {alpha} here, and {way} in a convolution with groups=1"
        )
    groups_h, groups_l = layer.groups_of(c_in.high), layer.groups_of(c_in.low)
    for counts, word in ((c_in, "in"), (c_out, "out")):
        if counts.high % max(groups_h, 1) or counts.low % max(groups_l, 1):
            advice = f"groups = {layer.groups}; a channel divisor that is a multiple of it helps"
            if layer.is_depthwise:
                advice = (
                    f"the {tuple(c_in)} in channels, as a depthwise convolution needs: set "
                    "alpha_out = alpha_in and out_channels a multiple of in_channels"
                )
            raise ValueError(
                f"{name}: {word} channels {tuple(counts)} (high, low) are not divisible by {advice}"
            )
    _check_padding(layer)
    if layer.is_plain:
        return
    if layer.stride[-2:] not in ((1, 1), (2, 2)):
        raise ValueError(f"{name}: the spatial stride must be 1 or 2, got {layer.stride[-2:]}")


def _check_padding(layer: Any) -> None:
    name = type(layer).__name__
    if layer.padding_mode not in PADDING_MODES:
        known = ", ".join(PADDING_MODES)
        raise ValueError(f"{name}: padding_mode {layer.padding_mode!r} is none of {known}")
    if isinstance(layer.padding, str):
        if layer.padding not in ("same", "valid"):
            raise ValueError(
                f"{name}: padding must be numbers, 'same' or 'valid', got {layer.padding!r}"
            )
        if layer.padding == "same" and set(layer.stride) != {1}:
            raise ValueError(f"{name}: padding='same' needs stride 1, got {layer.stride}")
    if layer.is_plain:
        return
    kernel, dilation = layer.kernel_size[-2:], layer.dilation[-2:]
    sums = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if [before + after for before, after in conv3d_as_2d.padding_pairs(layer)[-2:]] != sums:
        right = tuple(s // 2 for s in sums)
        advice = f"must be {right}" if sums == [2 * p for p in right] else "must be 'same'"
        padding = layer.padding if isinstance(layer.padding, str) else layer.padding[-2:]
        raise ValueError(
            f"{name}: an octave convolution must keep the spatial size: with kernel {kernel} "
            f"and dilation {dilation} the padding {advice}, got {padding!r}"
        )
