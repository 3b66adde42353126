"""Weights of a converted network by least squares, layer after layer, without labels.

A convolution of an octave network is linear in its weight, and the vanilla network shows what it
should give: its own output, pooled where the channel is low. In order from the input, each layer
takes what the corrected layers before it give, and its weight is solved for by a few steps of
conjugate gradients (Hestenes and Stiefel 1952) from the vanilla weight. Pruned networks are
repaired in this way, too (He et al., "Channel Pruning", arXiv 1707.06168).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from octvideo.layers import OctConv2d, OctConv3d, OctTensor, Value, convert, maps_of, octave_kind
from octvideo.layers.octavize import in_mode
from octvideo.surgery.tracing import Conv, Example, arguments

logger = logging.getLogger("octvideo")

EQUATIONS = 4  # for each unknown; with fewer a layer would overfit the batches, so it stays
RIDGE = 1e-3  # what leaving the old weight costs, as a share of the curvature along the gradient
TINY = 1e-30

Layer = Conv | OctConv2d | OctConv3d
Maps = tuple[Tensor, ...]


class _LayerHasRun(Exception):  # noqa: N818
    """Ends a forward pass at the layer whose maps are wanted."""


def refit(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Example],
    *,
    iterations: int = 10,
    progress: Callable[[str], None] | None = None,
) -> nn.Module:
    """Solves for the weights that bring each layer closest to the vanilla one, in place.

    It is for a converted network as ``octavize`` returns it, and takes the place of ``calibrate``:
    the statistics of the vanilla batch norms fit the result. Biases and other parameters stay. So
    do convolutions before the first octave one, and those of which the batches show too few
    pixels for their number of weights.

    Args:
        student: the octave network, in float32; its mode stays.
        teacher: the vanilla network, whose layers have the same names; it does not change.
        batches: inputs of the network, as ``example`` of ``octavize``: some hundred images or
            clips. The maps of one layer are kept at a time, for all batches.
        iterations: of conjugate gradients in each layer. Each takes as long as a step of training
            of that layer with all batches.
        progress: called with the name of each layer when it is done.

    Raises:
        ValueError: there is no batch, the teacher lacks a layer, or what a layer should give is
            not finite: nothing is changed then.
    """
    batches = [*batches]
    if not batches:
        raise ValueError("refit needs at least one batch: the iterable was empty")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with in_mode(student), in_mode(teacher):
        solved = 0
        layers = _layers(student, batches[0])
        if missing := [name for name in layers if name not in dict(teacher.named_modules())]:
            raise ValueError(f"the teacher has no layer {missing[0]}: give the vanilla network")
        for name, (layer, runs) in layers.items():
            inputs = [x for b in batches for x in _values(student, name, runs, b)]
            outputs = [y for b in batches for y in _values(teacher, name, runs, b, is_output=True)]
            weight = _solve(layer, inputs, outputs, iterations)
            if not weight.isfinite().all():
                student.load_state_dict(before)
                raise ValueError(f"{name} has values that are not finite for these batches")
            solved += not torch.equal(weight, layer.weight)
            layer.weight.data.copy_(weight)
            if progress is not None:
                progress(name)
    if layers and not solved:
        logger.warning("refit changed no layer: the batches have too few pixels for the weights")
    return student


def _layers(student: nn.Module, batch: Example) -> dict[str, tuple[Layer, int]]:
    """Returns the layers to solve, in the order in which they run, and how often each runs."""
    order: Counter[str] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda m, x, name=name: order.update([name]))
        for name, module in student.named_modules()
        if _is_linear(module)
    ]
    args, kwargs = arguments(batch)
    with torch.no_grad():
        student(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    layers: dict[str, tuple[Layer, int]] = {}
    for name, runs in order.items():  # a Counter keeps the order
        layer = student.get_submodule(name)
        assert isinstance(layer, Layer)
        if layers or isinstance(layer, (OctConv2d, OctConv3d)):
            layers[name] = layer, runs
    return layers


def _is_linear(module: nn.Module) -> bool:
    """Returns whether its output is a linear function of a parameter ``weight``."""
    if isinstance(module, (OctConv2d, OctConv3d)):
        return module.weight.requires_grad
    return (
        isinstance(module, (nn.Conv2d, nn.Conv3d))
        and octave_kind(module) is not None
        and "weight" in module._parameters
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and module.weight.requires_grad
    )


@torch.no_grad()
def _values(
    model: nn.Module, name: str, runs: int, batch: Example, is_output: bool = False
) -> list[Value]:
    """Returns what a layer takes, or gives, with a batch, for each time that it runs."""
    seen: list[Value] = []

    def hook(module: nn.Module, inputs: tuple[Value, ...], output: Value | None = None) -> None:
        value = inputs[0] if output is None else output
        seen.append(deepcopy(value) if runs > 1 else value)  # it may be overwritten later
        if len(seen) == runs:
            raise _LayerHasRun

    layer = model.get_submodule(name)
    handle = (layer.register_forward_hook if is_output else layer.register_forward_pre_hook)(hook)
    args, kwargs = arguments(batch)
    try:
        model(*args, **kwargs)
    except _LayerHasRun:
        pass
    finally:
        handle.remove()
    return seen


def _solve(
    layer: Layer, inputs: Sequence[Value], outputs: Sequence[Value], iterations: int
) -> Tensor:
    """Returns the weight W that minimises |W * inputs + bias - outputs|^2, close to the old one.

    Each row of W, an output channel, is a problem of its own, and all are solved at once.
    """
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()

    def maps(x: Value, w: Tensor, b: Tensor | None) -> Value:
        tensors = {"weight": w} if b is None else {"weight": w, "bias": b}
        out: Value = functional_call(layer, tensors, (x,))
        return out

    wanted = [_like(y, maps(x, weight, bias)) for x, y in zip(inputs, outputs, strict=True)]
    equations = sum(min(len(m) * m[0, 0].numel() for m in y) for y in wanted)
    if equations < EQUATIONS * weight[0].numel():
        return weight

    def gradient(w: Tensor, b: Tensor | None, targets: Sequence[Maps] | None) -> Tensor:
        """Returns the gradient of half the squared distance from the targets, or from 0."""
        total = torch.zeros_like(w)
        for number, x in enumerate(inputs):
            leaf = w.clone().requires_grad_()
            given = maps_of(maps(x, leaf, b))
            errors = given if targets is None else [*map(torch.sub, given, targets[number])]
            half = torch.stack([0.5 * error.square().sum() for error in errors]).sum()
            total += torch.autograd.grad(half, leaf)[0]
        return total

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum([*range(1, a.ndim)], keepdim=True)

    zero = None if bias is None else torch.zeros_like(bias)
    residual = -gradient(weight, bias, wanted)
    direction, change, norm = residual, torch.zeros_like(weight), dot(residual, residual)
    ridge: Tensor | None = None
    for _ in range(iterations):
        curved = gradient(direction, zero, None)  # the Hessian times the direction
        if ridge is None:
            ridge = RIDGE * dot(direction, curved) / dot(direction, direction).clamp_min(TINY)
        curved = curved + ridge * direction
        size = norm / dot(direction, curved).clamp_min(TINY)
        change, residual = change + size * direction, residual - size * curved
        previous, norm = norm, dot(residual, residual)
        direction = residual + norm / previous.clamp_min(TINY) * direction
    return weight + change


def _like(vanilla: Value, given: Value | tuple[Tensor, Tensor]) -> Maps:
    """Returns the maps of a vanilla output, with the low channels of the octave one."""
    low, *high = maps_of(given)
    low_channels = low.shape[1] if high else 0
    return maps_of(
        convert(vanilla, low_channels, given.layout if isinstance(given, OctTensor) else None)
    )
