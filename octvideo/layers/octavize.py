"""A vanilla network becomes octave: its convolutions and batch norms are swapped, nothing else."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers.channels import split_channels
from octvideo.layers.conv3d_as_2d import Conv2d, Conv3d
from octvideo.layers.non_local import NonLocal3d
from octvideo.layers.norm import BatchNorm2d, BatchNorm3d, batch_norm_of
from octvideo.layers.oct_tensor import OctTensor
from octvideo.layers.octave import OctConv2d, OctConv3d

OctConv = OctConv2d | OctConv3d
_OCTAVE: dict[type, type[OctConv2d] | type[OctConv3d]] = {
    nn.Conv2d: OctConv2d,
    Conv2d: OctConv2d,
    nn.Conv3d: OctConv3d,
    Conv3d: OctConv3d,
}


@dataclass(frozen=True)
class Placement:
    """Where a network is octave.

    Attributes:
        is_octave: of a convolution's name, as in ``named_modules``: whether its output has low
            channels. Where it has none, a convolution of an octave value leaves the octave.
        alpha: share of low channels, in [0, 1).
        divisor: the low channels are rounded to a multiple of it.
        pools: of a convolution's name: whether it pools for its spatial stride, as octave
            convolutions do, where input and output are plain.
        nonlocal_mode: what a non-local block makes of an octave value (see ``NonLocal3d``).
    """

    is_octave: Callable[[str], bool]
    alpha: float
    divisor: int = 1
    pools: Callable[[str], bool] = lambda name: False
    nonlocal_mode: str = "cross"


def octavize(model: nn.Module, placement: Placement, example: Any) -> nn.Module:
    """Makes a network octave, in place, and returns it.

    Parameters keep their objects, names, shapes and order, but for non-local blocks, which get new
    ones where their input is octave. What happens to octave values between the layers is in
    ``OctTensor``. A depthwise convolution is octave where its input is.

    Args:
        model: a network of ``nn.Conv2d`` or ``nn.Conv3d``, in any mode.
        placement: which convolutions give octave values.
        example: an input, on the model's device. The network runs once with it, in evaluation
            mode, for each layer to see the channels of its input.

    Raises:
        ValueError: a layer cannot be octave where it is; the message names it.
    """
    if placement.alpha == 0:
        return model
    vanilla: dict[str, Any] = {}
    for name, module in _outside_non_local(model):
        if type(module) in _OCTAVE:
            low = 0
            if placement.is_octave(name) and not 1 < module.groups == module.in_channels:
                low = split_channels(module.out_channels, placement.alpha, placement.divisor).low
            vanilla[name] = module
            octave = _OCTAVE[type(module)].of(module, low, placement.pools(name))
            _replace(model, name, octave)
        elif isinstance(module, _BatchNorm) and (norm := batch_norm_of(module)) is not None:
            _replace(model, name, norm)
    _learn_inputs(model, placement, example)
    for name, conv in vanilla.items():
        layer: Any = model.get_submodule(name)
        if layer.channels_in is None or (layer.is_plain and not layer.pools_plain):
            _replace(model, name, conv)  # it has seen no octave value and makes none
    return model


def _outside_non_local(model: nn.Module) -> list[tuple[str, Any]]:
    """All modules but those inside of non-local blocks, which see to them themselves."""
    modules = dict(model.named_modules())
    inside = tuple(f"{name}." for name, m in modules.items() if isinstance(m, NonLocal3d))
    return [(name, module) for name, module in modules.items() if not name.startswith(inside)]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@torch.no_grad()
def _learn_inputs(model: nn.Module, placement: Placement, example: Any) -> None:
    """Runs the network once; each octave layer takes the channels of its input from it."""
    modes = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, (OctConv2d, OctConv3d, BatchNorm2d, BatchNorm3d, NonLocal3d)):
                hook = module.register_forward_pre_hook(_Learner(name, placement))
                stack.callback(hook.remove)
        try:
            model.eval()(example)
        finally:
            for module, mode in modes.items():
                module.training = mode


@dataclass
class _Learner:
    """A hook before a layer's first pass."""

    name: str
    placement: Placement

    def __call__(self, layer: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        try:
            if isinstance(layer, (BatchNorm2d, BatchNorm3d)):
                layer.channels = x.channels if isinstance(x, OctTensor) else None
            elif not isinstance(layer, NonLocal3d):
                layer.learn_input(x)
            elif isinstance(x, OctTensor) and x.low is not None and not layer.channels.low:
                layer.octave_mode = self.placement.nonlocal_mode
                layer.set_channels(x.channels)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be octave: {error}") from error


def kernels_of(conv: Any) -> list[Tensor]:
    """Returns the kernels of a convolution, views of its weight; an octave one has up to four."""
    return [*conv.kernels().values()] if isinstance(conv, (OctConv2d, OctConv3d)) else [conv.weight]
