"""The networks that run in place of a user's model, which itself is never changed.

Several threads may share a model, and one of them may train it, so nothing here registers a hook
on it or switches it between training and evaluation.
"""

import copy
from collections.abc import Callable
from itertools import chain
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from octvideo.engine.precision import DTYPES
from octvideo.layers import conv3d_as_2d
from octvideo.models import VideoResNet, optimize_for_inference
from octvideo.utils.errors import UserError


def twin(model: nn.Module) -> nn.Module:
    """A copy of the model in evaluation mode that shares its parameters, buffers and hooks.

    Raises:
        UserError: the model holds something that cannot be copied.
    """
    shared = {id(value): value for value in (*_tensors(model).values(), *_hooks(model))}
    try:
        return copy.deepcopy(model, shared).eval()
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} cannot be copied ({error}): call model.eval() first"
        ) from error


def in_evaluation(model: nn.Module) -> nn.Module:
    """The model itself where all of it is in evaluation mode, otherwise its `twin`."""
    return twin(model) if any(module.training for module in model.modules()) else model


class Features(nn.Module):
    """Runs a network up to its last layer: (N, 3, [T,] H, W) -> (N, C), averaged over positions.

    The network offers ``forward_features`` and ``forward_head(x, pre_logits=True)``, as those of
    octvideo and timm do. It is in evaluation mode already.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name in ("forward_features", "forward_head"):
            if not callable(getattr(model, name, None)):
                raise UserError(
                    f"{type(model).__name__} has no method {name}: to extract features, a network "
                    "needs forward_features(clips) and forward_head(x, pre_logits=True), as the "
                    "networks of octvideo and timm have them"
                )
        self.model: Any = model
        self.training = False  # its own alone: eval() would reach into the model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(x), pre_logits=True)


class _Optimized:
    """A network for inference, and a record of everything it was made from."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        self.precision = precision
        self.tensors = {name: t.detach().clone() for name, t in _tensors(model).items()}
        self.settings = _settings(model)
        self.network = optimize_for_inference(model, DTYPES.get(precision))

    def is_of(self, model: nn.Module, precision: str) -> bool:
        """Compares the values themselves: neither sums nor version counters notice every edit."""
        if precision != self.precision or not _equal(_settings(model), self.settings):
            return False
        tensors = _tensors(model)
        return tensors.keys() == self.tensors.keys() and all(
            t.device == tensors[name].device
            and t.dtype == tensors[name].dtype
            and torch.equal(t, tensors[name])
            for name, t in self.tensors.items()
        )


_OPTIMIZED: WeakKeyDictionary[nn.Module, _Optimized] = WeakKeyDictionary()
_LOCK = Lock()


def optimized(model: nn.Module, precision: str) -> nn.Module:
    """The model for inference, which is made again whenever the model has changed.

    Models that are not video networks of octvideo, or that have hooks, are used as they are, and
    so are all models where ``conv3d_as_2d.enabled`` is off.
    """
    if not isinstance(model, VideoResNet) or not conv3d_as_2d.enabled or _hooks(model):
        return model
    with _LOCK:
        known = _OPTIMIZED.get(model)
        if known is None or not known.is_of(model, precision):
            known = _OPTIMIZED[model] = _Optimized(model, precision)
        return known.network


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))


def _hooks(model: nn.Module) -> list[Callable[..., Any]]:
    modules = list(model.modules())
    return [
        hook
        for m in modules
        for hooks in (m._forward_hooks, m._forward_pre_hooks)
        for hook in hooks.values()
    ]


def _settings(model: nn.Module) -> list[tuple[type, dict[str, Any]]]:
    """Class and plain attributes of each module: what a network computes with beside weights."""
    found = [
        (type(m), {k: v for k, v in vars(m).items() if k[0] != "_" and k != "training"})
        for m in model.modules()
    ]
    # Lists may be edited in place later on; functions are equal to themselves alone.
    functions = {id(v): v for _, values in found for v in values.values() if callable(v)}
    return copy.deepcopy(found, functions)


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):  # arrays have no single answer
        return False
