"""The private names of torch that octvideo uses, each with a way to do without it."""

import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_IS_X86 = platform.machine() in ("x86_64", "AMD64")  # on Arm torch has none of these operations
_ONEDNN = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
# stride, padding, dilation, groups
Options = tuple[Sequence[int], Sequence[int], Sequence[int], int]


def is_transformed() -> bool:
    """Returns whether a ``torch.func`` transform is running; False where torch does not say."""
    functorch = getattr(torch._C, "_functorch", None)
    peek = getattr(functorch, "peek_interpreter_stack", None)
    return peek is not None and peek() is not None


def call_as_written(module: Callable[[Tensor], object], x: Tensor) -> object:
    """Calls a module with its hooks, which a compiled one (``module.compile()``) would not run.

    Where torch has no such call, a compiled module runs as compiled.
    """
    return getattr(module, "_call_impl", module)(x)


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the 2-norm of each tensor, in one operation where torch has it."""
    many = getattr(torch, "_foreach_norm", None)
    return list(many(tensors)) if many else [torch.linalg.vector_norm(t) for t in tensors]


def lerp_(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Moves each tensor towards its end in place, in one operation where torch has it."""
    if many := getattr(torch, "_foreach_lerp_", None):
        many(tensors, ends, weight)
        return
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, weight)


# ---------------------------------------------------------------- operations of oneDNN


def has_onednn(x: Tensor) -> bool:
    """Returns whether ``onednn_conv`` takes an input such as ``x``.

    Otherwise (a GPU, an Arm processor, float16, ``torch.backends.mkldnn.flags(enabled=False)``, a
    torch without these operations) convolution, sum and activation are operations of their own.
    """
    mkldnn = torch.backends.mkldnn
    if x.device.type != "cpu" or not (_IS_X86 and mkldnn.is_available() and mkldnn.enabled):
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in _ONEDNN):
        return False
    if x.dtype == torch.bfloat16:
        is_supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return is_supported is not None and is_supported()
    return x.dtype == torch.float32


def onednn_conv(
    x: Tensor, packed: Tensor, bias: Tensor | None, options: Options, relu: bool
) -> Tensor:
    """Returns relu(conv(x)), or conv(x); ``packed`` is the weight from ``onednn_weight``."""
    stride, padding, dilation, groups = options
    act: Any = ("relu" if relu else "none", [], "")
    operation = torch.ops.mkldnn._convolution_pointwise
    y: Tensor = operation(x, packed, bias, padding, stride, dilation, groups, *act)
    return y


def onednn_conv_add_(
    y: Tensor, x: Tensor, packed: Tensor, bias: Tensor | None, options: Options, relu: bool
) -> Tensor:
    """Returns relu(y + conv(x)), or y + conv(x), in the memory of ``y``."""
    stride, padding, dilation, groups = options
    act: Any = ("add", 1.0, "relu" if relu else None, [], "")
    operation = torch.ops.mkldnn._convolution_pointwise_.binary
    z: Tensor = operation(y, x, packed, bias, padding, stride, dilation, groups, *act)
    return z


def onednn_weight(weight: Tensor, options: Options, shape: Sequence[int]) -> Tensor:
    """Returns the weight in the order that oneDNN prefers for inputs of a shape."""
    stride, padding, dilation, groups = options
    operation = torch.ops.mkldnn._reorder_convolution_weight
    packed: Tensor = operation(weight, padding, stride, dilation, groups, [*shape])
    return packed
