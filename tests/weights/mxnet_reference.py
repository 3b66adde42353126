"""The authors' networks in plain functions over their arrays, by their names.

Written from what their code computes, path by path, and with none of our layers: an octave layer
is up to four convolutions (h2h, h2l, l2h, l2l), with pools of 2x2 (or 4x4 at once, in gluon)
before and nearest upsampling after. A value is [high, low], either may be None.
"""

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
            groups = x.shape[1] if depthwise else 1
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


def resnet(net: Symbol, x: Tensor, blocks: tuple[int, ...] = (2, 2, 2, 2)) -> Tensor:
    """Pre-activation: its logits under MXNet are known, so it vouches for the operators here."""

    def bn_relu_conv(x: Value, layer: str, stride: int = 1) -> Value:
        return net.octave_conv(relu(net.octave_norm(x, layer)), layer, stride)

    y = F.conv2d(x, net.get("conv1_conv_weight"), stride=2, padding=3)
    y = F.max_pool2d(net.plain_norm(y, "conv1_bn_").clamp(min=0), 3, 2, 1)
    value: Value = [y, None]
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        for block in range(1, count + 1):
            layer, stride = f"L{stage}_B{block:02d}_conv", 2 if block == 1 and stage > 2 else 1
            new = bn_relu_conv(value, f"{layer}1")
            new = bn_relu_conv(bn_relu_conv(new, f"{layer}2", stride), f"{layer}3")
            if block == 1:
                value = bn_relu_conv(value, f"{layer}4", stride)
            value = [_sum(old, part) for old, part in zip(value, new, strict=True)]
    y = net.plain_norm(value[0], "tail_bn_").clamp(min=0).mean((2, 3))
    return F.linear(y, net.get("classifier_weight"), net.get("classifier_bias"))


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


REFERENCES = {
    "resnet-26": (Symbol, resnet),
    "densenet": (Symbol, densenet121),
    "mobilenet_v1": (Gluon, mobilenet_v1),
    "mobilenet_v2": (Gluon, mobilenet_v2),
}


def reference_logits(network: str, arrays: Arrays, x: Tensor) -> Tensor:
    """What the authors' network computes; every array must have been used."""
    kind, run = next(value for key, value in REFERENCES.items() if network.startswith(key))
    net = kind(arrays)
    y = run(net, x)
    assert net.used == net.arrays.keys()
    return y
