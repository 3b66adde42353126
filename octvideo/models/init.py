"""First weights. Each kernel of an octave convolution is drawn on its own fan."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers import NonLocal3d, OctConv2d, OctConv3d, kernels_of
from octvideo.models.blocks import ResBlock

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, OctConv2d, OctConv3d)


@torch.no_grad()
def init_weights(
    model: nn.Module, fc_std: float, zero_init_final_bn: bool, zero_init_final_conv: bool = False
) -> None:
    """Draws convolutions from Kaiming's normal on fan_out, each octave kernel on its own fan.

    BN starts as the identity, or, with ``zero_init_final_bn``, as zero where it ends a residual
    branch or a non-local block; ``zero_init_final_conv``: the last convolution of a residual
    branch starts as zero. Linear layers are normal(0, fc_std). Biases are 0.
    """
    kaiming = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS):
            for kernel in kernels_of(module):
                kaiming(kernel)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _BatchNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=fc_std)
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, NonLocal3d) and zero_init_final_bn:
            nn.init.zeros_(module.bn.weight)
        elif isinstance(module, ResBlock):
            conv, norm = module.branch2.final
            if zero_init_final_conv:
                nn.init.zeros_(conv.weight)
            if zero_init_final_bn:
                nn.init.zeros_(norm.weight)


@torch.no_grad()
def init_image_weights(model: nn.Module, fc_std: float) -> None:
    """Draws by MSRA with the average fan, as the authors: each octave kernel on its own fans.

    The standard deviation is sqrt(gain / fan), with fan = (fan_in + fan_out) / 2 and the gain of
    a leaky ReLU of slope 1/4, MXNet's default. Linear layers named ``head.projection`` are
    normal(0, fc_std). Batch norm starts as the identity, biases at 0.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            if module.affine:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        elif name == "head.projection":
            nn.init.normal_(module.weight, std=fc_std)
        elif isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            for kernel in kernels_of(module):
                _msra(kernel)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)


def _msra(weight: Tensor) -> None:
    fan = (weight.shape[0] + weight.shape[1]) / 2 * weight[0, 0].numel()
    nn.init.normal_(weight, std=(2 / (1 + 0.25**2) / fan) ** 0.5)
