"""A vanilla network becomes octave: its convolutions and batch norms are swapped, nothing else."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers.activation import Hardsigmoid, Hardswish, Swish
from octvideo.layers.channels import split_channels
from octvideo.layers.conv3d_as_2d import Conv2d, Conv3d, plain
from octvideo.layers.layout import Layout
from octvideo.layers.non_local import NonLocal3d
from octvideo.layers.norm import BatchNorm2d, BatchNorm3d, batch_norm_of
from octvideo.layers.oct_tensor import OctTensor, Value
from octvideo.layers.octave import OctConv2d, OctConv3d

OctConv = OctConv2d | OctConv3d
Learning = OctConv2d | OctConv3d | BatchNorm2d | BatchNorm3d | NonLocal3d
Input = TypeVar("Input")
_OCTAVE: dict[type, type[OctConv2d] | type[OctConv3d]] = {
    nn.Conv2d: OctConv2d,
    Conv2d: OctConv2d,
    nn.Conv3d: OctConv3d,
    Conv3d: OctConv3d,
}
# Layers of the same results: as fast as their octave neighbours, or fit for octave values.
_AKIN: dict[str, type[nn.Module]] = {
    "torch.nn.modules.conv.Conv3d": Conv3d,
    "torch.nn.modules.activation.Hardsigmoid": Hardsigmoid,
    "torch.nn.modules.activation.Hardswish": Hardswish,
    "pytorchvideo.layers.swish.Swish": Swish,
}


class PlacementError(ValueError):
    """A layer cannot be octave where it is: ``name``, and the ``reason``."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name or 'the network'} cannot be octave: {reason}")
        self.name, self.reason = name, reason


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
        layout: of a convolution's name and output channels, in place of alpha: which are low. With
            it, values know their layout, so that vanilla weights keep their meaning everywhere;
            without it, channels are [L | H] also behind concatenations and in groups, as in the
            authors' networks.
        is_candidate: of a convolution's name: whether it may take octave values.
    """

    is_octave: Callable[[str], bool]
    alpha: float
    divisor: int = 1
    pools: Callable[[str], bool] = lambda name: False
    nonlocal_mode: str = "cross"
    layout: Callable[[str, int], Layout] | None = None
    is_candidate: Callable[[str], bool] = lambda name: True

    def low_channels(self, name: str, channels: int) -> int | Layout:
        """Returns how many of a convolution's output channels are low, or which."""
        if self.layout is not None:
            return self.layout(name, channels)
        if not self.is_octave(name):
            return 0
        return split_channels(channels, self.alpha, self.divisor).low


def octavize(
    model: nn.Module,
    placement: Placement,
    example: Input,
    run: Callable[[nn.Module, Input], object] | None = None,
) -> nn.Module:
    """Makes a network octave, in place, and returns it.

    Parameters keep their objects, names, shapes and order, but for non-local blocks, which get new
    ones where their input is octave. What happens to octave values between the layers is in
    ``OctTensor``. A depthwise convolution is octave where its input is.

    Args:
        model: a network of ``nn.Conv2d`` or ``nn.Conv3d``, in any mode.
        placement: which convolutions give octave values.
        example: an input, on the model's device. The network runs once with it, in evaluation
            mode, for each layer to see the channels of its input.
        run: runs the network with the example, instead.

    Raises:
        PlacementError: a layer cannot be octave where it is; the message names it.
    """
    if placement.alpha == 0 and placement.layout is None:
        return model
    before = {module: type(module) for module in model.modules()}
    for module, usual in before.items():
        module.__class__ = _AKIN.get(f"{usual.__module__}.{usual.__qualname__}", usual)
        if isinstance(module, Conv3d):
            for size in ("stride", "padding", "dilation"):
                setattr(module, size, plain(getattr(module, size)))
    vanilla: dict[nn.Module, nn.Module] = {}
    for name, module in _outside_non_local(model):
        new = _octave_form(name, module, placement)
        if new is not None and new is not module:
            vanilla[new] = module
    _replace(model, {old: new for new, old in vanilla.items()})
    try:
        _learn_inputs(model, placement, example, run or _run)
    except BaseException:  # whatever it was, the network is as it came
        _replace(model, vanilla)
        for module, usual in before.items():
            module.__class__ = usual
        raise
    _replace(model, {new: old for new, old in vanilla.items() if _is_vanilla(new, placement)})
    return model


def _octave_form(name: str, module: nn.Module, placement: Placement) -> nn.Module | None:
    """Returns the layer for octave values that takes the place of a module; None: it has none."""
    kind = octave_kind(module)
    if kind is not None and placement.is_candidate(name):
        assert isinstance(module, (nn.Conv2d, nn.Conv3d))
        low = placement.low_channels(name, module.out_channels)
        if isinstance(low, int) and 1 < module.groups == module.in_channels:
            low = 0  # it has as many low channels as its input
        return kind.of(module, low, placement.pools(name))
    return batch_norm_of(module) if isinstance(module, _BatchNorm) else None


def octave_kind(module: nn.Module) -> type[OctConv2d] | type[OctConv3d] | None:
    """Returns the octave form of a convolution; None for one with a forward pass of its own."""
    for vanilla, octave in _OCTAVE.items():
        if isinstance(module, vanilla) and _forward_of(type(module)) == _forward_of(vanilla):
            return octave
    return None


def _forward_of(kind: type[nn.Module]) -> tuple[object, object]:
    return kind.forward, getattr(kind, "_conv_forward", None)


def _is_vanilla(layer: nn.Module, placement: Placement) -> bool:
    """Returns whether a new layer has seen no octave value and makes none."""
    if isinstance(layer, (BatchNorm2d, BatchNorm3d)):
        return layer.channels is None and placement.layout is not None
    assert isinstance(layer, (OctConv2d, OctConv3d))
    return layer.channels_in is None or (layer.is_plain and not layer.pools_plain)


def _outside_non_local(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All modules but those inside of non-local blocks, which see to them themselves."""
    modules = dict(model.named_modules())
    inside = tuple(f"{name}." for name, m in modules.items() if isinstance(m, NonLocal3d))
    return [(name, module) for name, module in modules.items() if not name.startswith(inside)]


def _replace(model: nn.Module, new: dict[nn.Module, nn.Module]) -> None:
    """Puts the new modules in all places of the old ones: a network may use one twice."""
    for parent in [*model.modules()]:
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]


def _learn_inputs(
    model: nn.Module,
    placement: Placement,
    example: Input,
    run: Callable[[nn.Module, Input], object],
) -> None:
    """Runs the network once; each octave layer takes the channels of its input from it."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, (OctConv2d, OctConv3d, BatchNorm2d, BatchNorm3d, NonLocal3d)):
                hook = module.register_forward_pre_hook(_Learner(name, placement))
                stack.callback(hook.remove)
        run(model, example)


@torch.no_grad()
def _run(model: nn.Module, example: object) -> None:
    with in_mode(model):
        model(example)


@contextmanager
def in_mode(model: nn.Module, training: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Sets these modules to training and all others to evaluation, inside the context."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module in training:
        module.training = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass
class _Learner:
    """A hook before a layer's first pass."""

    name: str
    placement: Placement

    def __call__(self, layer: Learning, inputs: tuple[Value, ...]) -> None:
        x = inputs[0]
        try:
            if not isinstance(layer, NonLocal3d):
                layer.learn_input(x)
            elif isinstance(x, OctTensor) and x.low is not None and not layer.channels.low:
                layer.octave_mode = self.placement.nonlocal_mode
                layer.set_channels(x.channels)
        except ValueError as error:
            raise PlacementError(self.name, str(error)) from error


def kernels_of(conv: nn.Module) -> list[Tensor]:
    """Returns the kernels of a convolution, views of its weight; an octave one has up to four."""
    if isinstance(conv, (OctConv2d, OctConv3d)):
        return [*conv.kernels().values()]
    return [cast("Tensor", conv.weight)]
