"""Counts multiply-adds, parameters and activations of a model without running it."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
# Convolutions and linear layers; attention (bmm), batch norm and pooling are not counted.
COUNTED_OPERATORS = (aten.convolution, aten.addmm, aten.mm)


@dataclass
class Cost:
    """The cost of one forward pass of a model, or of one section of it.

    Attributes:
        macs: multiply-adds of convolutions and linear layers; 1 FLOP = 1 multiply-add, as in the
            paper's Table 6.
        params: learned numbers.
        activations: output elements of the same layers; an octave convolution has y_h and y_l.
    """

    macs: int = 0
    params: int = 0
    activations: int = 0


@dataclass
class Complexity(Cost):
    """The cost of a whole model; ``sections`` by its direct children (s1 .. s5, head), in order."""

    sections: dict[str, Cost] = field(default_factory=dict)


def count(model: nn.Module, input_shape: Sequence[int] = (1, 3, 8, 224, 224)) -> Complexity:
    """Counts one forward pass of ``model`` on an input (N, C, T, H, W), or of any other shape.

    It runs on the meta device: no arithmetic, no memory for activations, seconds at most. A
    model built under ``with torch.device("meta")`` needs no memory for its weights either. The
    given model does not change.

    Raises:
        ValueError: the model cannot take an input of this shape.
    """
    model = copy.deepcopy(model).to("meta").eval()
    _skip_norms(model)
    flops = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), _counting_outputs(model) as outputs, flops:
            model(torch.empty(tuple(input_shape), device="meta"))
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} cannot take an input of shape {tuple(input_shape)}: {error}"
        ) from error

    def cost(name: str, module: nn.Module) -> Cost:
        root = type(model).__name__
        counts = flops.get_flop_counts().get(f"{root}.{name}" if name else "Global", {})
        return Cost(
            macs=sum(counts.get(operator, 0) for operator in COUNTED_OPERATORS) // 2,
            params=sum(p.numel() for p in module.parameters()),
            activations=sum(outputs.get(layer, 0) for layer in module.modules()),
        )

    sections = {name: cost(name, child) for name, child in model.named_children()}
    return Complexity(**vars(cost("", model)), sections=sections)


def _skip_norms(model: nn.Module) -> None:
    """Lets batch norm pass its input on: it is not counted, changes no shape, and is slow on meta.

    On that device torch runs it as a dozen operations in Python, half of the time of a count.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not module._modules:
            module.forward = nn.Identity().forward  # type: ignore[method-assign]


@contextmanager
def _counting_outputs(model: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Counts the output elements of every layer with a kernel while the context lasts."""
    outputs: dict[nn.Module, int] = {}

    def add(layer: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        maps = (output,) if isinstance(output, Tensor) else output  # octave values have two
        total = sum(map_.numel() for map_ in maps if map_ is not None)
        outputs[layer] = outputs.get(layer, 0) + total

    weights = ((layer, getattr(layer, "weight", None)) for layer in model.modules())
    kernels = [layer for layer, weight in weights if isinstance(weight, Tensor) and weight.ndim > 1]
    hooks = [layer.register_forward_hook(add) for layer in kernels]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
