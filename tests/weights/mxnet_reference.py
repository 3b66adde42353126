"""The authors' networks in plain functions over their arrays, by their names.

Written from what their code computes, path by path, and with none of our layers: an octave layer
is up to four convolutions (h2h, h2l, l2h, l2l), with pools of 2x2 (or 4x4 at once, in gluon)
before and nearest upsampling after. A value is [high, low], either may be None.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Arrays = dict[str, Tensor]
Value = list[Tensor | None]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _cat(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else torch.cat([a, b], 1)


def _pool(x: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(x, size, size, ceil_mode=True, count_include_pad=False)


class Symbol:
    """Operators of the symbol networks: BN eps 1e-4, names ``LAYER_conv-h2l_weight``."""

    eps, bn, conv, mean = 1e-4, "{}_bn-{}_{}", "{}_conv-{}_weight", "moving"
    halves_twice = True  # pool 2x2 for the stride, and once more for h2l

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = {name.partition(":")[2] or name: value for name, value in arrays.items()}
        self.used: set[str] = set()

    def get(self, name: str) -> Tensor | None:
        if name in self.arrays:
            self.used.add(name)
        return self.arrays.get(name)

    def norm(self, x: Tensor, names: list[str]) -> Tensor:
        gamma, beta, mean, var = (self.get(name) for name in names)
        shape = (1, -1, 1, 1)
        y = (x - mean.view(shape)) / (var.view(shape) + self.eps).sqrt()
        return y * gamma.view(shape) + beta.view(shape)

    def names(self, layer: str, frequency: str) -> list[str]:
        words = ("gamma", "beta", f"{self.mean}_mean", f"{self.mean}_var")
        return [self.bn.format(layer, frequency, word) for word in words]

    def plain_norm(self, x: Tensor, prefix: str) -> Tensor:
        words = ("gamma", "beta", f"{self.mean}_mean", f"{self.mean}_var")
        return self.norm(x, [f"{prefix}{word}" for word in words])

    def octave_norm(self, x: Value, layer: str) -> Value:
        return [
            None if part is None else self.norm(part, self.names(layer, f))
            for part, f in zip(x, "hl", strict=True)
        ]

    def octave_conv(self, x: Value, layer: str, stride: int = 1, depthwise: bool = False) -> Value:
        w = {way: self.get(self.conv.format(layer, way)) for way in ("h2h", "h2l", "l2h", "l2l")}
        high, low = x

        def conv(x: Tensor, way: str) -> Tensor:
            k = w[way]
            groups = x.shape[1] if depthwise else x.shape[1] // k.shape[1]
            return F.conv2d(x, k, padding=k.shape[-1] // 2, groups=groups)

        out: dict[str, Tensor | None] = dict.fromkeys(("h2h", "h2l", "l2h", "l2l"))
        if high is not None:
            halved = _pool(high, 2) if stride == 2 else high
            if w["h2h"] is not None:
                out["h2h"] = conv(halved, "h2h")
            if w["h2l"] is not None:
                quarter = _pool(halved, 2) if self.halves_twice else _pool(high, 2 * stride)
                out["h2l"] = conv(quarter, "h2l")
        if low is not None:
            if w["l2l"] is not None:
                out["l2l"] = conv(_pool(low, 2) if stride == 2 else low, "l2l")
            if w["l2h"] is not None:
                y = conv(low, "l2h")
                up = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
                out["l2h"] = y if stride == 2 else up
        return [_sum(out["h2h"], out["l2h"]), _sum(out["h2l"], out["l2l"])]


class Gluon(Symbol):
    """Operators of the gluon networks: BN eps 1e-5, names ``LAYER.conv_h2l.weight``."""

    eps, bn, conv, mean = 1e-5, "{}.bn_{}.{}", "{}.conv_{}.weight", "running"
    halves_twice = False


def relu(x: Value) -> Value:
    return [None if part is None else part.clamp(min=0) for part in x]


def relu6(x: Value) -> Value:
    return [None if part is None else part.clamp(0, 6) for part in x]


def densenet121(net: Symbol, x: Tensor) -> Tensor:
    def bn_relu_conv(x: Value, layer: str) -> Value:
        return net.octave_conv(relu(net.octave_norm(x, layer)), layer)

    y = F.conv2d(x, net.get("conv1_conv_weight"), stride=2, padding=3)
    y = F.max_pool2d(net.plain_norm(y, "conv1_bn_").clamp(min=0), 3, 2, 1)
    value: Value = [y, None]
    for stage, count in zip((2, 3, 4, 5), (6, 12, 24, 16), strict=True):
        if stage > 2:
            value = bn_relu_conv(value, f"L{stage}_Trans_conv")
            value = [None if part is None else F.avg_pool2d(part, 2, 2) for part in value]
        for block in range(1, count + 1):
            layer = f"L{stage}_B{block:02d}_conv"
            new = bn_relu_conv(bn_relu_conv(value, f"{layer}1"), f"{layer}2")
            value = [_cat(old, part) for old, part in zip(value, new, strict=True)]
    y = net.plain_norm(value[0], "tail_bn_").clamp(min=0).mean((2, 3))
    return F.linear(y, net.get("classifier_weight"), net.get("classifier_bias"))


def resnet(net: Symbol, x: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """Pre-activation, with squeeze-and-excitation or groups where the arrays are such."""

    def bn_relu_conv(x: Value, layer: str, stride: int = 1) -> Value:
        return net.octave_conv(relu(net.octave_norm(x, layer)), layer, stride)

    y = F.conv2d(x, net.get("conv1_conv_weight"), stride=2, padding=3)
    y = F.max_pool2d(net.plain_norm(y, "conv1_bn_").clamp(min=0), 3, 2, 1)
    value: Value = [y, None]
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        for block in range(1, count + 1):
            layer, stride = f"L{stage}_B{block:02d}", 2 if block == 1 and stage > 2 else 1
            new = bn_relu_conv(value, f"{layer}_conv1")
            new = bn_relu_conv(bn_relu_conv(new, f"{layer}_conv2", stride), f"{layer}_conv3")
            if f"{layer}_se_fc1-h2h_weight" in net.arrays:
                new = _symbol_squeeze(net, new, f"{layer}_se")
            if block == 1:
                value = bn_relu_conv(value, f"{layer}_conv4", stride)
            value = [_sum(old, part) for old, part in zip(value, new, strict=True)]
    y = net.plain_norm(value[0], "tail_bn_").clamp(min=0).mean((2, 3))
    return F.linear(y, net.get("classifier_weight"), net.get("classifier_bias"))


def _symbol_squeeze(net: Symbol, x: Value, layer: str) -> Value:
    high, low = (None if part is None else part.mean((2, 3)) for part in x)
    y = F.linear(high, net.get(f"{layer}_fc1-h2h_weight"), net.get(f"{layer}_fc1-h2h_bias"))
    if low is not None:
        y = y + F.linear(low, net.get(f"{layer}_fc1-l2h_weight"))
    return _gated(net, x, y.clamp(min=0), f"{layer}_fc2-h2{{}}_{{}}")


def _gated(net: Symbol, x: Value, y: Tensor, name: str) -> Value:
    result: Value = [None, None]
    for i, f in enumerate("hl"):
        if x[i] is not None:
            weight, bias = net.get(name.format(f, "weight")), net.get(name.format(f, "bias"))
            result[i] = x[i] * F.linear(y, weight.flatten(1), bias).sigmoid()[..., None, None]
    return result


def gluon_resnet(net: Gluon, x: Tensor, blocks: tuple[int, ...], strided: int) -> Tensor:
    """Post-activation; ``strided``: which convolution of a block has the stride."""

    def stem(y: Tensor, i: int, stride: int) -> Tensor:
        kernel = net.get(f"conv1.{i}.weight")
        y = F.conv2d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return net.plain_norm(y, f"conv1.{i + 1}.").clamp(min=0)

    is_light = "conv2.conv1.weight" in net.arrays
    y = stem(x, 0, 1 if is_light else 2)
    if "conv1.3.weight" in net.arrays:
        y = stem(stem(y, 3, 2 if is_light else 1), 6, 1)
    value: Value = [_light_block(net, y) if is_light else F.max_pool2d(y, 3, 2, 1), None]
    for stage, count in enumerate(blocks, 1):
        for i in range(count):
            name, stride = f"L{stage}_B{i}", 2 if i == 0 and stage > 1 else 1
            value = _gluon_block(net, value, name, stride, strided)
    return _classifier(net, value[0])


def _gluon_block(net: Gluon, x: Value, name: str, stride: int, strided: int) -> Value:
    def branch(x: Value, extra: str, numbers: tuple[int, ...], stride: int) -> Value:
        if f"{name}.{extra}.bn_h.beta" in net.arrays:  # its scale is fixed to 1, its shift is not
            gammas = {f: net.get(f"{name}.{extra}.bn_{f}.gamma") for f in "hl"}
            for f, gamma in gammas.items():
                if gamma is not None:
                    net.arrays[f"{name}.{extra}.bn_{f}.gamma"] = torch.ones_like(gamma)
            x = net.octave_norm(x, f"{name}.{extra}")
        for number in numbers:
            x = net.octave_conv(x, f"{name}.conv{number}", stride if number in (strided, 4) else 1)
            x = net.octave_norm(x, f"{name}.bn{number}")
            x = relu(x) if number in (1, 2) else x
        return x

    y = branch(x, "bn1a", (1, 2, 3), stride)
    if f"{name}.se_block.conv1.weight" in net.arrays:
        means = [None if part is None else part.mean((2, 3)) for part in y]
        kernel, bias = (net.get(f"{name}.se_block.conv1.{w}") for w in ("weight", "bias"))
        squeezed = F.linear(_cat(*means), kernel.flatten(1), bias).clamp(min=0)
        y = _gated(net, y, squeezed, f"{name}.se_block.conv2_{{}}.{{}}")
    if f"{name}.conv4.conv_h2h.weight" in net.arrays:
        x = branch(x, "bn4a", (4,), stride)
    return relu([_sum(a, b) for a, b in zip(x, y, strict=True)])


def _light_block(net: Gluon, x: Tensor) -> Tensor:
    def conv_bn(y: Tensor, number: int, stride: int = 1) -> Tensor:
        kernel = net.get(f"conv2.conv{number}.weight")
        y = F.conv2d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return net.plain_norm(y, f"conv2.bn{number}.")

    y = conv_bn(conv_bn(x, 1).clamp(min=0), 2, 2).clamp(min=0)
    return (conv_bn(y, 3) + conv_bn(x, 4, 2)).clamp(min=0)


def _gluon_stem(net: Gluon, x: Tensor) -> Tensor:
    y = F.conv2d(x, net.get("conv1.0.weight"), stride=2, padding=1)
    return net.plain_norm(y, "conv1.1.")


def _classifier(net: Gluon, x: Tensor) -> Tensor:
    x = x.mean((2, 3), keepdim=True)
    return F.conv2d(x, net.get("classifer.weight"), net.get("classifer.bias")).flatten(1)


def _blocks(strides: list[int]) -> list[tuple[str, int]]:
    names, stage, i = [], 1, 0
    for stride in strides:
        stage, i = (stage + 1, 0) if stride == 2 else (stage, i + 1)
        names.append((f"L{stage}_B{i}", stride))
    return names


def mobilenet_v1(net: Gluon, x: Tensor) -> Tensor:
    value: Value = [_gluon_stem(net, x).clamp(min=0), None]
    for name, stride in _blocks([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]):
        value = net.octave_conv(value, f"{name}.conv1", stride, depthwise=True)
        value = relu(net.octave_norm(value, f"{name}.bn1"))
        value = relu(net.octave_norm(net.octave_conv(value, f"{name}.conv2"), f"{name}.bn2"))
    assert value[1] is None
    return _classifier(net, value[0])


def mobilenet_v2(net: Gluon, x: Tensor) -> Tensor:
    y = _gluon_stem(net, x).clamp(0, 6)
    for name, stride in _blocks([1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]):
        value = net.octave_conv([y, None], f"{name}.conv1")
        value = relu6(net.octave_norm(value, f"{name}.bn1"))
        value = net.octave_conv(value, f"{name}.conv2", stride, depthwise=True)
        value = relu6(net.octave_norm(value, f"{name}.bn2"))
        high, low = net.octave_norm(net.octave_conv(value, f"{name}.conv3"), f"{name}.bn3")
        assert low is None
        y = high + y if stride == 1 and high.shape[1] == y.shape[1] else high
    y = F.conv2d(y, net.get("tail.0.weight"))
    return _classifier(net, net.plain_norm(y, "tail.1.").clamp(0, 6))


R50, R152 = (3, 4, 6, 3), (3, 8, 36, 3)
REFERENCES = {
    "densenet": (Symbol, densenet121),
    "mobilenet_v1": (Gluon, mobilenet_v1),
    "mobilenet_v2": (Gluon, mobilenet_v2),
    "resnet-26_": (Symbol, partial(resnet, blocks=(2, 2, 2, 2))),
    "resnet-50_": (Symbol, partial(resnet, blocks=R50)),
    "resnet-101_": (Symbol, partial(resnet, blocks=(3, 4, 23, 3))),
    "resnet-200_": (Symbol, partial(resnet, blocks=(3, 24, 36, 3))),
    "se-resnet-50_": (Symbol, partial(resnet, blocks=R50)),
    "resnext-50_": (Symbol, partial(resnet, blocks=R50)),
    "resnet50_v1b": (Gluon, partial(gluon_resnet, blocks=R50, strided=2)),
    "resnet152_v1f": (Gluon, partial(gluon_resnet, blocks=R152, strided=3)),
    "se-resnet152_v1e": (Gluon, partial(gluon_resnet, blocks=R152, strided=3)),
}


def reference_logits(network: str, arrays: Arrays, x: Tensor) -> Tensor:
    """What the authors' network computes; every array must have been used."""
    kind, run = next(value for key, value in REFERENCES.items() if network.startswith(key))
    net = kind(arrays)
    y = run(net, x)
    assert net.used == net.arrays.keys()
    return y
