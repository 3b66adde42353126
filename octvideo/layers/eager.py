"""Whether operations run as they are called, or are recorded or transformed first.

What saves memory and time in eager mode (views in other memory formats, hooks on saved tensors,
functions with a gradient of their own) is left out elsewhere: an exporter or ``torch.func`` either
cannot express it or does not need it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from octvideo.layers.torch_private import is_transformed

# torch.compile and torch.export are told apart from torch 2.7 on.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def is_recorded() -> bool:
    """Whether ``torch.jit.trace``, an ONNX exporter or a ``torch.func`` transform is at work.

    torch.compile is not among them: it takes the same operations as eager mode.
    """
    if torch.compiler.is_compiling():
        return _is_exporting()
    return torch.jit.is_tracing() or is_transformed()


def is_eager() -> bool:
    """Whether neither a compiler nor any of those is at work."""
    return not torch.compiler.is_compiling() and not is_recorded()


def relu_(x: Tensor) -> Tensor:
    """ReLU in place, which exporters may lose in one half of an octave value: there, it is not."""
    return F.relu(x) if is_recorded() else F.relu_(x)


def relu6_(x: Tensor) -> Tensor:
    """ReLU6, in place as `relu_`."""
    return F.hardtanh(x, 0, 6) if is_recorded() else F.hardtanh_(x, 0, 6)
