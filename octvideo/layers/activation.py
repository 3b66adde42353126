"""Activations whose usual layers do not take octave values everywhere.

PyTorchVideo's Swish is a function with a gradient of its own, which knows tensors alone.
``torch.overrides`` lists the functions of the other two as ignored: in eager mode they ask the type
of their input all the same, but torch.compile goes by the list.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers.oct_tensor import OctTensor, Value


class Hardswish(nn.Hardswish):
    def forward(self, x: Value) -> Any:
        """Returns a value of the same kind and shape."""
        return _looked_up(F.hardswish, x, self.inplace)


class Hardsigmoid(nn.Hardsigmoid):
    def forward(self, x: Value) -> Any:
        """Returns a value of the same kind and shape."""
        return _looked_up(F.hardsigmoid, x, self.inplace)


class Swish(nn.Module):
    """x * sigmoid(x)."""

    def forward(self, x: Value) -> Any:
        """Returns a value of the same kind and shape."""
        return x * x.sigmoid()


def _looked_up(func: Callable[..., Tensor], x: Value, inplace: bool) -> Any:
    if isinstance(x, OctTensor):
        return OctTensor.__torch_function__(func, (OctTensor,), (x,), {"inplace": inplace})
    return func(x, inplace)
