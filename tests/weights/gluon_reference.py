"""The authors' gluon residual networks, run array by array from what their files hold.

Written from the published code's facts and apart from octvideo's layers: maps are {"h": ..., "l":
...}, each array is used under its own name, and strides are pooled.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Maps = dict[str, Tensor]
EPS = 1e-5


def run(arrays: dict[str, Tensor], images: Tensor, stride_on: int) -> Tensor:
    """Logits; ``stride_on`` is the number of the convolution of a block that has its stride."""
    *_, (_, _, maps) = blocks(arrays, images, stride_on)
    assert maps.keys() == {"h"}
    mean = maps["h"].mean((2, 3), keepdim=True)
    return F.conv2d(mean, arrays["classifer.weight"], arrays["classifer.bias"]).flatten(1)


def blocks(
    arrays: dict[str, Tensor], images: Tensor, stride_on: int
) -> Iterator[tuple[tuple[int, int], Maps, Maps]]:
    """(stage from 1, block from 0), what it is given, what it makes of that; in order."""
    maps = {"h": _stem(arrays, images)}
    for stage in (1, 2, 3, 4):
        block = 0
        while f"L{stage}_B{block}.conv1.conv_h2h.weight" in arrays:
            stride = 2 if stage > 1 and block == 0 else 1
            given, maps = maps, _block(arrays, f"L{stage}_B{block}.", maps, stride, stride_on)
            yield (stage, block), given, maps
            block += 1


def _norm(arrays: dict[str, Tensor], name: str, x: Tensor, fix_gamma: bool = False) -> Tensor:
    gamma, beta, mean, var = (
        arrays[f"{name}.{part}"] for part in ("gamma", "beta", "running_mean", "running_var")
    )
    gamma = torch.ones_like(gamma) if fix_gamma else gamma
    scale = gamma / (var + EPS).sqrt()
    return x * scale[:, None, None] + (beta - mean * scale)[:, None, None]


def _norms(arrays: dict[str, Tensor], name: str, maps: Maps, fix_gamma: bool = False) -> Maps:
    return {f: _norm(arrays, f"{name}.bn_{f}", x, fix_gamma) for f, x in maps.items()}


def _half(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))


def _conv(arrays: dict[str, Tensor], name: str, maps: Maps, stride: int = 1) -> Maps:
    out: Maps = {}
    for source, x in maps.items():
        for target in "hl":
            kernel = arrays.get(f"{name}.conv_{source}2{target}.weight")
            if kernel is None:
                continue
            halvings = {"hh": 0, "hl": 1, "ll": 0, "lh": -1}[source + target] + (stride == 2)
            for _ in range(halvings):
                x = _half(x)
            y = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
            if halvings < 0:
                y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
            out[target] = out[target] + y if target in out else y
            x = maps[source]
    return out


def _relu(maps: Maps) -> Maps:
    return {f: x.clamp(min=0) for f, x in maps.items()}


def _block(arrays: dict[str, Tensor], name: str, maps: Maps, stride: int, stride_on: int) -> Maps:
    def norm_first(which: str) -> Maps:
        is_there = f"{name}{which}.bn_h.gamma" in arrays
        return _norms(arrays, name + which, maps, fix_gamma=True) if is_there else maps

    y = norm_first("bn1a")
    for i in (1, 2, 3):
        y = _conv(arrays, f"{name}conv{i}", y, stride if i == stride_on else 1)
        y = _norms(arrays, f"{name}bn{i}", y)
        y = y if i == 3 else _relu(y)
    if f"{name}se_block.conv1.weight" in arrays:
        means = torch.cat([y[f].mean((2, 3), keepdim=True) for f in "hl" if f in y], dim=1)
        squeezed = F.conv2d(
            means, arrays[f"{name}se_block.conv1.weight"], arrays[f"{name}se_block.conv1.bias"]
        ).clamp(min=0)
        for f in y:
            gate = f"{name}se_block.conv2_{f}."
            y[f] = (
                y[f] * F.conv2d(squeezed, arrays[gate + "weight"], arrays[gate + "bias"]).sigmoid()
            )
    if f"{name}conv4.conv_h2h.weight" in arrays:
        maps = _norms(
            arrays, f"{name}bn4", _conv(arrays, f"{name}conv4", norm_first("bn4a"), stride)
        )
    return _relu({f: x + maps[f] for f, x in y.items()})


def _stem(arrays: dict[str, Tensor], x: Tensor) -> Tensor:
    first = arrays["conv1.0.weight"]
    is_light = "conv2.conv1.weight" in arrays
    if first.shape[-1] == 7:
        x = F.conv2d(x, first, stride=2, padding=3)
        x = _norm(arrays, "conv1.1", x).clamp(min=0)
    else:
        for i, stride in zip((0, 3, 6), (1, 2, 1) if is_light else (2, 1, 1), strict=True):
            x = F.conv2d(x, arrays[f"conv1.{i}.weight"], stride=stride, padding=1)
            x = _norm(arrays, f"conv1.{i + 1}", x).clamp(min=0)
    if not is_light:
        return F.max_pool2d(x, 3, 2, 1)
    y = x
    for i, stride in ((1, 1), (2, 2), (3, 1)):
        kernel = arrays[f"conv2.conv{i}.weight"]
        y = F.conv2d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        y = _norm(arrays, f"conv2.bn{i}", y)
        y = y if i == 3 else y.clamp(min=0)
    x = _norm(arrays, "conv2.bn4", F.conv2d(x, arrays["conv2.conv4.weight"], stride=2))
    return (x + y).clamp(min=0)
