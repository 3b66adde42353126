"""Multiply-adds of an octave network by the paper's formulas, from its vanilla network's shapes."""

import re

import torch
from torch import nn


def octave_macs(vanilla: nn.Module, alpha: float, clip: tuple[int, ...]) -> int:
    """Returns what the paths of all layers cost: octave in res2 to res5, default placement.

    vanilla: a network of residual blocks in one pathway, on the meta device.
    """
    sizes: dict[str, torch.Size] = {}
    layers = {n: m for n, m in vanilla.named_modules() if isinstance(m, nn.Conv3d)}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _m, _x, y, n=name: sizes.update({n: y.shape[2:]}))
    vanilla.eval()(torch.empty(clip, device="meta"))
    last = f"s5.pathway0_res{vanilla.spec.block_counts()[3] - 1}.branch2.c"
    total = vanilla.head.projection.weight.numel()
    for name, layer in layers.items():
        frames, side = sizes[name][:2]
        taps, c_in, c_out = layer.weight[0, 0].numel(), layer.in_channels, layer.out_channels
        low_in, low_out = int(alpha * c_in), int(alpha * c_out)
        high, low = side * side * frames, (-(-side // 2)) ** 2 * frames
        if "_res" not in name or ".se." in name:  # vanilla
            total += high * layer.weight.numel()
            continue
        if re.fullmatch(r"s2\.pathway0_res0\.(branch1|branch2\.a)", name):
            low_in = 0
        low_out = 0 if name == last else low_out
        if layer.groups > 1:
            total += taps * (high * (c_out - low_out) + low * low_out)
            continue
        # Of the paths to H, L -> H is computed small, unless the layer halves the resolution.
        l2h = high if layer.stride[-1] == 2 else low
        total += taps * (c_out - low_out) * (high * (c_in - low_in) + l2h * low_in)
        total += taps * low_out * low * c_in
    return total
