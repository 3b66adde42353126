"""Networks for inference in place of a user's model, which itself is never changed.

Several threads may share a model, and one of them may train it, so nothing here registers a hook
on it or switches it between training and evaluation.
"""

import copy
import pickle
from collections.abc import Callable, Iterable
from itertools import chain
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from octvideo.deploy import ExportedNetwork
from octvideo.engine.precision import DTYPES
from octvideo.layers import conv3d_as_2d
from octvideo.layers.fused import FusedConv
from octvideo.models import optimize_for_inference
from octvideo.models.external import ExternalNetwork, keep_input
from octvideo.models.video_resnet import VideoResNet
from octvideo.utils.errors import UserError

_SAMPLE = 512  # values of each tensor that are compared
_FORMATS = {4: (torch.channels_last,), 5: (torch.channels_last_3d,)}


def twin(model: nn.Module) -> nn.Module:
    """Returns a copy in evaluation mode that shares the model's parameters, buffers and hooks.

    Raises:
        UserError: the model holds something that cannot be copied.
    """
    shared = {id(value): value for value in (*_tensors(model).values(), *_hooks(model))}
    try:
        return copy.deepcopy(model, shared).eval()
    except (TypeError, RuntimeError, copy.Error, pickle.PicklingError) as error:
        raise UserError(
            f"{type(model).__name__} cannot be copied ({error}): call model.eval() first"
        ) from error


def in_evaluation(model: nn.Module) -> nn.Module:
    """Returns the model itself if all of it is in evaluation mode, otherwise its `twin`."""
    return twin(model) if any(module.training for module in model.modules()) else model


def for_inference(model: nn.Module, precision: str) -> nn.Module:
    """Returns a network in evaluation mode with the weights that the model has now.

    Of a video network of octvideo, or one that octvideo has built from another project, it is the
    result of ``optimize_for_inference``, kept until the model changes (see `_State`). An exported
    file is opened again where it is to compute in another precision. Used as they are: models that
    have hooks, whose tensors cannot be watched, that are optimised already, and, while
    ``conv3d_as_2d.enabled`` is off, all.
    """
    if isinstance(model, ExportedNetwork):
        return model.in_precision(precision)
    is_known = isinstance(model, (VideoResNet, ExternalNetwork))
    if not is_known or not conv3d_as_2d.enabled or _hooks(model):
        return in_evaluation(model)
    if any(isinstance(module, FusedConv) for module in model.modules()):
        return in_evaluation(model)
    with _LOCK:
        state = _State.of(model, precision)
        if state is None:
            return in_evaluation(model)
        known = _OPTIMIZED.get(model)
        if known is None or known[0] != state:
            network = optimize_for_inference(model, DTYPES.get(precision)).eval()
            known = _OPTIMIZED[model] = state, network
        return known[1]


class _State:
    """All that the optimised network depends on, in a form that is quick to compare.

    Weights are not compared one by one. Writes that PyTorch counts (optimizers,
    ``load_state_dict``, in-place functions) raise a tensor's version. Another tensor, or other
    memory (``.to()``, ``parameter.data = ...``), has another address: the storages are kept
    alive, so that no address is used twice. What PyTorch does not count, writes through
    ``parameter.data`` or a NumPy array, is seen by a sample of each tensor's values.

    Only such an uncounted write to a few weights of a kernel can go unnoticed. After one, use
    ``optimize_for_inference(model)`` in place of the model, which is never kept here.
    """

    def __init__(self, model: nn.Module, precision: str) -> None:
        tensors = _tensors(model)
        self.facts = [
            (name, id(t), t._version, t.data_ptr(), t.shape, t.stride(), t.dtype, t.device)
            for name, t in tensors.items()
        ]
        self.kept = [(t, t.untyped_storage()) for t in tensors.values()]
        self.samples = _samples(tensors.values())
        self.settings = precision, _settings(model.modules())

    @classmethod
    def of(cls, model: nn.Module, precision: str) -> "_State | None":
        """Returns the state of a model, or None where a tensor has no version or no memory."""
        tensors = _tensors(model).values()
        if any(t.is_inference() or t.is_meta or t.layout != torch.strided for t in tensors):
            return None
        return cls(model, precision)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _State)
            and self.facts == other.facts
            and _equal(self.settings, other.settings)
            and all(map(torch.equal, self.samples, other.samples))
        )

    __hash__ = None  # type: ignore[assignment]


_OPTIMIZED: WeakKeyDictionary[nn.Module, tuple[_State, nn.Module]] = WeakKeyDictionary()
_LOCK = Lock()


def _samples(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Returns up to _SAMPLE values of each tensor, evenly spaced, in one tensor a device and type.

    The first value is always among them, and the distance is odd, so that it is no multiple of
    the usual sizes of a kernel.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        count = tensor.numel()
        step = max(1, count // _SAMPLE) | 1
        flat = tensor.detach() if _is_dense(tensor) else tensor.detach().contiguous()
        values = flat.as_strided((-(-count // step),), (step,))
        groups.setdefault((tensor.device, tensor.dtype), []).append(values)
    return [torch.cat(parts) for parts in groups.values()]


def _is_dense(tensor: Tensor) -> bool:
    """Returns whether the values fill a block of memory, in one of PyTorch's formats."""
    return any(
        tensor.is_contiguous(memory_format=form)
        for form in (torch.contiguous_format, *_FORMATS.get(tensor.ndim, ()))
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))


def _hooks(model: nn.Module) -> list[Callable[..., object]]:
    modules = list(model.modules())
    return [
        hook
        for m in modules
        for hooks in (m._forward_hooks, m._forward_pre_hooks)
        for hook in hooks.values()
        if hook is not keep_input
    ]


def _settings(modules: Iterable[nn.Module]) -> list[object]:
    """Returns class and plain attributes of each module: what it computes with beside weights."""
    return [
        (type(m), {k: _fixed(v) for k, v in vars(m).items() if k[0] != "_" and k != "training"})
        for m in modules
    ]


def _fixed(value: object) -> object:
    """Returns a list or dict as it is now, as it may be edited in place later on."""
    if isinstance(value, list):
        return [_fixed(v) for v in value]
    return {k: _fixed(v) for k, v in value.items()} if isinstance(value, dict) else value


def _equal(a: object, b: object) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):  # arrays have no single answer
        return False
