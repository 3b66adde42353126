"""What a model costs: multiply-adds, parameters and activations, without running it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
# Convolutions and linear layers; attention (bmm), batch norm and pooling are not counted.
COUNTED_OPERATORS = {aten.convolution, aten.addmm, aten.mm}


@dataclass
class Cost:
    """Counts of a model or of one of its sections, for one forward pass.

    ``macs``: multiply-adds of convolutions and linear layers, 1 FLOP = 1 multiply-add, the
    convention of the paper's Table 6. ``params``: learned numbers. ``activations``: output
    elements of the same layers (fvcore's definition).
    """

    macs: int = 0
    params: int = 0
    activations: int = 0


@dataclass
class Complexity(Cost):
    """The cost of a whole model; ``sections`` by its direct children (s1 .. s5, head), in order."""

    sections: dict[str, Cost] = field(default_factory=dict)


class _Counter(TorchDispatchMode):
    """Adds every counted operator to ``cost``, which may be exchanged on the way.

    torch's FlopCounterMode has the same formulas, but knows no activations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operator = func.overloadpacket
        if operator in COUNTED_OPERATORS:
            self.cost.macs += flop_registry[operator](*args, **kwargs, out_val=out) // 2
            self.cost.activations += out.numel()
        return out


def count(model: nn.Module, input_shape: Sequence[int] = (1, 3, 8, 224, 224)) -> Complexity:
    """Counts one forward pass of ``model`` on an input (N, C, T, H, W), or of any other shape.

    It runs on the meta device: no arithmetic, no memory for activations, seconds at most. A
    model built under ``with torch.device("meta")`` needs no memory for its weights either. The
    model given is not changed.

    Raises:
        ValueError: the model can not take an input of this shape.
    """
    model = copy.deepcopy(model).to("meta").eval()
    sections = {name: Cost(params=_num_params(child)) for name, child in model.named_children()}
    counter = _Counter()
    elsewhere = counter.cost  # operators of the model itself, outside its children

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            counter.cost = sections[name]

        return hook

    def leave(*_: Any) -> None:
        counter.cost = elsewhere

    for name, child in model.named_children():
        child.register_forward_pre_hook(enter(name))
        child.register_forward_hook(leave)
    try:
        with torch.no_grad(), counter:
            model(torch.empty(tuple(input_shape), device="meta"))
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} can not take an input of shape {tuple(input_shape)}: {error}"
        ) from error
    parts = [elsewhere, *sections.values()]
    return Complexity(
        macs=sum(part.macs for part in parts),
        params=_num_params(model),
        activations=sum(part.activations for part in parts),
        sections=sections,
    )


def _num_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
