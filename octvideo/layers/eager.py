"""Whether operations run as they are called, or are recorded or transformed first.

What saves memory and time in eager mode (views in other memory formats, hooks on saved tensors,
functions with a gradient of their own) is left out elsewhere: an exporter or ``torch.func`` either
cannot express it or does not need it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from octvideo.layers.torch_private import is_transformed

# From torch 2.7 on, an export can be distinguished from a compilation.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


_as_run = False


@contextmanager
def recorded_as_run() -> Iterator[None]:
    """Records an export inside the context as torch runs it, for who runs it with torch again."""
    global _as_run
    before, _as_run = _as_run, True
    try:
        yield
    finally:
        _as_run = before


def is_recorded() -> bool:
    """Returns whether ``torch.jit.trace``, an ONNX exporter or a ``torch.func`` transform runs.

    torch.compile is not among them: it takes the same operations as eager mode.
    """
    if torch.compiler.is_compiling():
        return _is_exporting() and not _as_run
    return torch.jit.is_tracing() or is_transformed()


def is_eager() -> bool:
    """Returns whether neither a compiler nor any of those is at work."""
    return not torch.compiler.is_compiling() and not is_recorded()
