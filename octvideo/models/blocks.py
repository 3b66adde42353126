"""Building blocks of the video ResNets: stem, residual blocks, stage and head.

Parameter names are PySlowFast's, so that its checkpoints load. Every block takes and returns
octave values; a block whose channel pairs have no low part is the plain ResNet block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers import (
    Channels,
    NonLocal3d,
    OctBatchNorm3d,
    OctConv2d,
    OctConv3d,
    Value,
    conv3d_as_2d,
    convert,
    merge,
    per_frequency,
    pool_high,
)
from octvideo.layers.eager import is_recorded
from octvideo.models.recompute import run_and_recompute


@dataclass(frozen=True)
class BlockSpec:
    """One residual block: its channel pairs and what its convolutions do.

    ``stride`` and ``dilation`` are spatial; ``stride_1x1`` puts the stride on the first
    convolution of a bottleneck instead of its 3x3. ``pool_stride``: see ``OctConv3d``.
    """

    dim_in: Channels
    dim_inner: Channels
    dim_out: Channels
    temporal_kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    stride_1x1: bool = False
    pool_stride: bool = False
    inplace_relu: bool = True
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1


def _conv(
    dim_in: Channels,
    dim_out: Channels,
    kernel: tuple[int, int, int],
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    pool_stride: bool = False,
) -> OctConv3d:
    """A convolution without bias that keeps T and, but for its spatial stride, H and W."""
    t, h, w = kernel
    return OctConv3d(
        dim_in,
        dim_out,
        kernel,
        stride=(1, stride, stride),
        padding=(t // 2, dilation * (h // 2), dilation * (w // 2)),
        dilation=(1, dilation, dilation),
        groups=groups,
        bias=False,
        pool_stride=pool_stride,
    )


def _norm(spec: BlockSpec, channels: Channels) -> OctBatchNorm3d:
    return OctBatchNorm3d(channels, eps=spec.bn_eps, momentum=spec.bn_momentum)


class Bottleneck(nn.Module):
    """a: t x1x1, BN, ReLU; b: 1x3x3, BN, ReLU; c: 1x1x1, BN."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        stride_a, stride_b = (spec.stride, 1) if spec.stride_1x1 else (1, spec.stride)
        inner = spec.dim_inner
        pools = {"pool_stride": spec.pool_stride}
        self.a = _conv(spec.dim_in, inner, (spec.temporal_kernel, 1, 1), stride_a, **pools)
        self.a_bn = _norm(spec, inner)
        self.b = _conv(inner, inner, (1, 3, 3), stride_b, spec.dilation, spec.groups, **pools)
        self.b_bn = _norm(spec, inner)
        self.c = _conv(inner, spec.dim_out, (1, 1, 1))
        self.c_bn = _norm(spec, spec.dim_out)
        self.relu = nn.ReLU(spec.inplace_relu)

    @property
    def final(self) -> tuple[OctConv3d, OctBatchNorm3d]:
        return self.c, self.c_bn

    def forward(self, x: Value, pooled: Tensor | None = None) -> Value:
        """(N, dim_in, T, H, W) -> (N, dim_out, T, H/stride, W/stride); pooled: see OctConv3d."""
        x = per_frequency(self.relu, self.a_bn(self.a(x, pooled)))
        x = per_frequency(self.relu, self.b_bn(self.b(x)))
        return self.c_bn(self.c(x))


class BasicTransform(nn.Module):
    """a: t x3x3, BN, ReLU; b: 1x3x3, dilated, BN. As in PySlowFast, both are ``dim_out`` wide."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        middle = spec.dim_inner
        self.a = _conv(spec.dim_in, middle, (spec.temporal_kernel, 3, 3), spec.stride)
        self.a_bn = _norm(spec, middle)
        self.b = _conv(middle, spec.dim_out, (1, 3, 3), dilation=spec.dilation)
        self.b_bn = _norm(spec, spec.dim_out)
        self.relu = nn.ReLU(spec.inplace_relu)

    @property
    def final(self) -> tuple[OctConv3d, OctBatchNorm3d]:
        return self.b, self.b_bn

    def forward(self, x: Value, pooled: Tensor | None = None) -> Value:
        """(N, dim_in, T, H, W) -> (N, dim_out, T, H/stride, W/stride); pooled: see OctConv3d."""
        x = per_frequency(self.relu, self.a_bn(self.a(x, pooled)))
        return self.b_bn(self.b(x))


TRANSFORMS = {"bottleneck_transform": Bottleneck, "basic_transform": BasicTransform}


class ResBlock(nn.Module):
    """relu(shortcut(x) + branch2(x)); the shortcut is a 1x1x1 projection where shapes change.

    Where branch2 enters or leaves the octave and the shortcut is the identity, its value is
    split or merged; both keep the channel order and cost no multiply-adds.
    """

    def __init__(self, spec: BlockSpec, transform: str = "bottleneck_transform") -> None:
        super().__init__()
        self.dim_out = spec.dim_out
        self.branch1: nn.Module | None = None
        if spec.dim_in.total != spec.dim_out.total or spec.stride != 1:
            self.branch1 = _conv(spec.dim_in, spec.dim_out, (1, 1, 1), spec.stride)
            self.branch1_bn = _norm(spec, spec.dim_out)
        self.branch2: Any = TRANSFORMS[transform](spec)
        self.relu = nn.ReLU(spec.inplace_relu)

    def forward(self, x: Value) -> Value:
        """(N, dim_in, T, H, W) -> (N, dim_out, T, H/stride, W/stride)."""
        if self.branch1 is not None:
            pooled = pool_high(x) if self.branch2.a.needs_pooled else None  # for both branches
            shortcut, y = self.branch1_bn(self.branch1(x, pooled)), self.branch2(x, pooled)
        else:
            shortcut, y = convert(x, self.dim_out), self.branch2(x)
        return per_frequency(self.relu, per_frequency(torch.add, shortcut, y))


class Stem(nn.Module):
    """conv t x7x7 / (1,2,2), BN, ReLU, max pool 1x3x3 / (1,2,2). Never octave."""

    def __init__(
        self, channels_in: int, channels_out: int, temporal_kernel: int, eps: float, momentum: float
    ) -> None:
        super().__init__()
        t = temporal_kernel
        self.conv = conv3d_as_2d.Conv3d(
            channels_in, channels_out, (t, 7, 7), (1, 2, 2), (t // 2, 3, 3), bias=False
        )
        self.bn = OctBatchNorm3d(channels_out, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, C, T, H/4, W/4)."""
        x = conv3d_as_2d.max_pool3d(self.bn(self.conv(x)), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        return F.relu(x, inplace=True)  # after the pool it does the same to a quarter of the values


class Pathways(nn.Module):
    """Modules in sequence for each pathway p, named ``pathway{p}_{name}`` as in PySlowFast.

    recompute: in training, what is inside a module is not kept but computed again.
    """

    recompute = False

    def __init__(self, *pathways: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.sequences = [
            [f"pathway{p}_{name}" for name in modules] for p, modules in enumerate(pathways)
        ]
        for sequence, modules in zip(self.sequences, pathways, strict=True):
            for name, module in zip(sequence, modules.values(), strict=True):
                self.add_module(name, module)

    def forward(self, xs: Sequence[Value]) -> list[Value]:
        """One value for each pathway -> the same."""
        return [self._run(x, names) for x, names in zip(xs, self.sequences, strict=True)]

    def _run(self, x: Value, names: list[str]) -> Value:
        for name in names:
            module = self.get_submodule(name)
            x = run_and_recompute(module, x) if self.recompute and self.training else module(x)
        return x


HEAD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": partial(torch.softmax, dim=-1),
    "sigmoid": torch.sigmoid,
    "none": nn.Identity(),
}


class Head(nn.Module):
    """Average pool of each pathway, dropout, linear layer: fully convolutional.

    The window of each pathway is the size of its map at the training crop, at stride 1, so a
    larger test crop gives several positions. In training their logits are averaged, in
    evaluation their activations (PySlowFast's ResNetBasicHead).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        windows: Sequence[tuple[int, int, int]],
        dropout_rate: float,
        activation: str,
    ) -> None:
        super().__init__()
        if activation not in HEAD_ACTIVATIONS:
            known = ", ".join(HEAD_ACTIVATIONS)
            raise ValueError(f"unknown head activation {activation!r}; known: {known}")
        self.windows = windows
        self.dropout = nn.Dropout(dropout_rate)
        self.projection = nn.Linear(channels, num_classes)
        self.activation = HEAD_ACTIVATIONS[activation]

    def forward(self, xs: Sequence[Value], pre_logits: bool = False) -> Tensor:
        """Maps (N, C_p, T_p, H, W) -> logits in training, activations in evaluation (N, K).

        ``pre_logits``: the input of the linear layer, averaged over positions, (N, C) instead.
        """
        pooled = [self._pool(merge(x), w) for x, w in zip(xs, self.windows, strict=True)]
        x = torch.cat(pooled, dim=1) if len(pooled) > 1 else pooled[0]
        if pre_logits:
            return x.mean((2, 3, 4))
        x = x.permute(0, 2, 3, 4, 1).to(self.projection.weight.dtype)
        x = self.projection(self.dropout(x))
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # autocast's half ends here
        if not self.training:
            x = self.activation(x)
        return x.mean((1, 2, 3))

    @staticmethod
    def _pool(x: Tensor, window: tuple[int, int, int]) -> Tensor:
        """A map smaller than the window is averaged whole; in float32, as CPUs have no other."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if is_recorded():
            return _pool_any_size(x, window)
        t, h, w = (min(n, size) for n, size in zip(window, x.shape[2:], strict=True))
        return conv3d_as_2d.avg_pool3d(x, (t, h, w))


def _pool_any_size(x: Tensor, window: tuple[int, int, int]) -> Tensor:
    """The same in operations that a recorded network can be run with at every size."""
    y = conv3d_as_2d.avg_pool3d(conv3d_as_2d.grown(x, window, 0.0), window)
    for n, size in zip(x.shape[2:], window, strict=True):
        if int(n) < size:
            y = y * (size / (n.clamp(max=size) if isinstance(n, Tensor) else n))
    return y


@torch.no_grad()
def init_weights(
    model: nn.Module, fc_std: float, zero_init_final_bn: bool, zero_init_final_conv: bool = False
) -> None:
    """Kaiming normal on fan_out for convolutions, each octave kernel on its own fan.

    BN starts as the identity, or, with ``zero_init_final_bn``, as zero where it ends a residual
    branch or a non-local block; ``zero_init_final_conv``: the last convolution of a residual
    branch starts as zero. Linear layers are normal(0, fc_std). Biases are 0.
    """
    kaiming = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, (OctConv2d, OctConv3d)):
            for kernel in module.kernels().values():
                kaiming(kernel)
        elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
            kaiming(module.weight)
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
        elif isinstance(module, (Bottleneck, BasicTransform)):
            conv, norm = module.final
            if zero_init_final_conv:
                nn.init.zeros_(conv.weight)
            if zero_init_final_bn:
                nn.init.zeros_(norm.weight)
