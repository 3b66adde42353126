"""LARS: learning rates that adapt to each layer."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

TRUST = 1e-3
_EPSILON = 1e-8


def add_lars(optimizer: torch.optim.Optimizer, model: nn.Module, trust: float = TRUST) -> None:
    """Makes each step of the optimizer scale the gradients of each layer as LARS does.

    A parameter w with gradient g and weight decay d takes part with

        trust * |w| / (|g| + d * |w| + 1e-8) * (g + d * w)

    in place of g + d * w, as in PySlowFast (You et al., "Large Batch Training of Convolutional
    Networks"; ratios are not clipped). Batch norm is left to the optimizer. One-dimensional
    parameters, and parameters whose w or g is 0, keep their g, without decay. After the step, the
    gradients of the model are what they were.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NormBase)
        for parameter in module.parameters(recurse=False)
    }
    places = [i for i, g in enumerate(optimizer.param_groups) if id(g["params"][0]) not in norms]
    decays: list[float] = []
    gradients: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def scale(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in (optimizer.param_groups[i] for i in places):
            decays.append(group["weight_decay"])
            group["weight_decay"] = 0.0  # it is in the scaled gradient
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.ndim > 1:
                    gradients.append((parameter, parameter.grad))
                    parameter.grad = scaled_gradient(parameter, parameter.grad, decays[-1], trust)

    def restore(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for place, decay in zip(places, decays, strict=True):
            optimizer.param_groups[place]["weight_decay"] = decay
        for parameter, gradient in gradients:
            parameter.grad = gradient
        decays.clear()
        gradients.clear()

    optimizer.register_step_pre_hook(scale)
    optimizer.register_step_post_hook(restore)


def scaled_gradient(weight: Tensor, gradient: Tensor, decay: float, trust: float) -> Tensor:
    """Returns the gradient that `add_lars` describes. Stays on the device."""
    w, g = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
    applies = (w > 0) & (g > 0)
    ratio = torch.where(applies, trust * w / (g + decay * w + _EPSILON), 1.0)
    return gradient * ratio + weight * torch.where(applies, decay * ratio, 0.0)
