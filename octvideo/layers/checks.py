"""Wrong values in: a ValueError that says what a layer takes and what it got."""

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

from octvideo.layers.channels import Channels
from octvideo.layers.oct_tensor import OctTensor
from octvideo.layers.resample import half_size


def check_value(x: Any, channels: Channels, ndim: int, layer: nn.Module) -> None:
    """Raises ValueError unless x is a value of these channels with ``ndim`` axes per tensor."""
    is_pair = isinstance(x, OctTensor) or (isinstance(x, (tuple, list)) and len(x) == 2)
    parts = tuple(x) if is_pair else (x,)
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
