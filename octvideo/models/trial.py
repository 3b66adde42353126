"""What a network of unknown code does with an example: its scores and the layer that gives them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from octvideo.models.libraries import FOREIGN_ERRORS
from octvideo.utils.errors import UserError

_LAST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ACTIVATIONS = {"_softmax", "_log_softmax", "sigmoid"}  # of ATen


@dataclass(frozen=True)
class Trial:
    """What was seen.

    num_classes: scores of a clip. head: the name of the last layer, where that gives them.
    gives_features: it saw each clip once.
    """

    num_classes: int
    head: str | None
    gives_features: bool


class _Watch(TorchDispatchMode):
    """Notes the last layer with a kernel, what it sees, and the functions after it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.names = {module: name for name, module in network.named_modules()}
        self.layer: nn.Module | None = None
        self.inputs: Tensor | None = None
        self.after: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        self.after.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def saw(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        """A forward hook of the layers with a kernel."""
        self.layer, self.inputs, self.after = layer, inputs[0], set()


def try_network(network: nn.Module, name: str, example: Tensor | list[Tensor]) -> Trial:
    """Runs a copy of a network, in evaluation mode, on an example on the meta device.

    It takes no arithmetic and no memory. ``name``: for messages.

    Raises:
        UserError: the network does not take the example, or does not give scores (N, classes)
            without an activation.
    """
    twin = _on_meta(network).eval()
    watch = _Watch(twin)
    for layer in twin.modules():
        if isinstance(layer, _LAST_LAYERS):
            layer.register_forward_hook(watch.saw)
    first = example if isinstance(example, Tensor) else example[-1]
    shape = tuple(first.shape)
    try:
        with torch.no_grad(), watch:
            output = twin(example)
    except FOREIGN_ERRORS as error:
        what = "clips (N, 3, T, H, W)" if len(shape) == 5 else "images (N, 3, H, W)"
        other = "DATA.NUM_FRAMES 1 makes images" if len(shape) == 5 else "clips have more frames"
        raise UserError(
            f"MODEL.MODEL_NAME {name} does not take {what} of shape {shape}, which "
            f"DATA.NUM_FRAMES and DATA.TRAIN_CROP_SIZE ask for ({other}): "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        raise UserError(
            f"MODEL.MODEL_NAME {name} gives a {type(output).__name__}, and must give one tensor of "
            "scores (N, classes)"
        )
    if output.ndim != 2 or len(output) != len(first):
        raise UserError(
            f"MODEL.MODEL_NAME {name} gives {tuple(output.shape)} for {shape}, and must give "
            "scores (N, classes)"
        )
    if found := sorted(watch.after & _ACTIVATIONS):
        raise UserError(
            f"MODEL.MODEL_NAME {name} ends in {found[0].strip('_')}, but losses take scores "
            "without it: leave it out of the network; MODEL.HEAD_ACT adds one in evaluation"
        )
    return _trial(watch, output)


def _trial(watch: _Watch, output: Tensor) -> Trial:
    count, layer = output.shape[1], watch.layer
    if layer is None or watch.inputs is None:
        return Trial(count, None, False)
    if getattr(layer, "out_features", getattr(layer, "out_channels", None)) != count:
        return Trial(count, None, False)
    return Trial(count, watch.names[layer], len(watch.inputs) == len(output))


def _on_meta(network: nn.Module) -> nn.Module:
    """Returns a copy on the meta device; weights are not copied on the way."""
    memo: dict[int, Tensor] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in network.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(network, memo)
