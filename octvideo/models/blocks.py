"""Residual blocks of images and of videos.

Parameter names are PySlowFast's, so that its checkpoints load.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from octvideo.layers import BatchNorm2d, BatchNorm3d, Conv2d, Conv3d
from octvideo.layers.se import SqueezeExcite

Conv = Conv2d | Conv3d
Norm = BatchNorm2d | BatchNorm3d


@dataclass(frozen=True)
class Layers:
    """Makes the layers of a network: of images (``ndim`` 2) or of videos (3)."""

    ndim: int
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    inplace_relu: bool = True

    def conv(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int,
        temporal_kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        temporal_stride: int = 1,
    ) -> Conv:
        """Makes a convolution without bias that keeps, but for its strides, T, H and W."""
        padding = dilation * (kernel // 2)
        if self.ndim == 2:
            return Conv2d(dim_in, dim_out, kernel, stride, padding, dilation, groups, bias=False)
        t = temporal_kernel
        return Conv3d(
            dim_in,
            dim_out,
            (t, kernel, kernel),
            stride=(temporal_stride, stride, stride),
            padding=(t // 2, padding, padding),
            dilation=(1, dilation, dilation),
            groups=groups,
            bias=False,
        )

    def norm(self, channels: int, affine: bool = True) -> Norm:
        kind = BatchNorm2d if self.ndim == 2 else BatchNorm3d
        return kind(channels, self.bn_eps, self.bn_momentum, affine)

    def relu(self) -> nn.ReLU:
        return nn.ReLU(self.inplace_relu)


@dataclass(frozen=True)
class BlockSpec:
    """One residual block: its channels and what its convolutions do.

    ``stride`` and ``dilation`` are spatial. ``stride_on``: the convolution of a bottleneck with
    the stride, "a" (1x1), "b" (3x3) or "c" (the last 1x1); ``time_on``: the one with the kernel
    and the stride in time, "a", "b", or "b_t", a 1x1 convolution before b that is there for it.
    ``squeeze``: squeeze-and-excitation. ``input_bn``: a batch norm without scale and shift before
    the branch and the projection.
    """

    dim_in: int
    dim_inner: int
    dim_out: int
    temporal_kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    temporal_stride: int = 1
    stride_on: str = "b"
    time_on: str = "a"
    squeeze: bool = False
    input_bn: bool = False

    @property
    def changes_shape(self) -> bool:
        return self.dim_in != self.dim_out or self.stride * self.temporal_stride != 1

    def stride_of(self, conv: str) -> int:
        return self.stride if conv == self.stride_on else 1

    def time_of(self, conv: str) -> tuple[int, int]:
        """Returns kernel and stride in time of a convolution."""
        return (self.temporal_kernel, self.temporal_stride) if conv == self.time_on else (1, 1)


def bottleneck_convs(spec: BlockSpec, make: Layers) -> tuple[Conv, Conv, Conv]:
    """Makes a: [t x]1x1, b: [1x]3x3, c: [1x]1x1; with ``time_on`` "b", a: 1x1x1, b: t x3x3."""
    inner, dilation, groups = spec.dim_inner, spec.dilation, spec.groups
    (t_a, stride_a), (t_b, stride_b) = map(spec.time_of, "ab")
    return (
        make.conv(spec.dim_in, inner, 1, t_a, spec.stride_of("a"), 1, 1, stride_a),
        make.conv(inner, inner, 3, t_b, spec.stride_of("b"), dilation, groups, stride_b),
        make.conv(inner, spec.dim_out, 1, 1, spec.stride_of("c")),
    )


class Transform(nn.Module):
    """The branch of a residual block; ``final``: its last convolution and batch norm."""

    @property
    def final(self) -> tuple[Conv, Norm]:
        raise NotImplementedError


class Bottleneck(Transform):
    """a: t x1x1, BN, ReLU; b: 1x3x3, BN, ReLU; c: 1x1x1, BN.

    Options: a batch norm without scale and shift before a, squeeze-and-excitation behind c, b
    t x3x3 or with b_t: t x1x1, BN, ReLU before it (``time_on``).
    """

    def __init__(self, spec: BlockSpec, make: Layers) -> None:
        super().__init__()
        self.input_bn = make.norm(spec.dim_in, affine=False) if spec.input_bn else nn.Identity()
        a, b, c = bottleneck_convs(spec, make)
        self.a, self.a_bn = a, make.norm(spec.dim_inner)
        self.factorised = spec.time_on == "b_t"
        if self.factorised:
            t, stride = spec.time_of("b_t")
            self.b_t = make.conv(spec.dim_inner, spec.dim_inner, 1, t, temporal_stride=stride)
            self.b_t_bn = make.norm(spec.dim_inner)
        self.b, self.b_bn = b, make.norm(spec.dim_inner)
        self.c, self.c_bn = c, make.norm(spec.dim_out)
        self.se = SqueezeExcite(spec.dim_out) if spec.squeeze else nn.Identity()
        self.relu = make.relu()

    @property
    def final(self) -> tuple[Conv, Norm]:
        return self.c, self.c_bn

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, [T,] H, W) -> (N, dim_out, [T,] H/stride, W/stride)."""
        x = self.relu(self.a_bn(self.a(self.input_bn(x))))
        if self.factorised:
            x = self.relu(self.b_t_bn(self.b_t(x)))
        x = self.relu(self.b_bn(self.b(x)))
        return self.se(self.c_bn(self.c(x)))


class BasicTransform(Transform):
    """a: t x3x3, BN, ReLU; b: 1x3x3, dilated, BN. As in PySlowFast, both are ``dim_out`` wide."""

    def __init__(self, spec: BlockSpec, make: Layers) -> None:
        super().__init__()
        middle = spec.dim_inner
        self.a = make.conv(spec.dim_in, middle, 3, spec.temporal_kernel, spec.stride)
        self.a_bn = make.norm(middle)
        self.b = make.conv(middle, spec.dim_out, 3, dilation=spec.dilation)
        self.b_bn = make.norm(spec.dim_out)
        self.relu = make.relu()

    @property
    def final(self) -> tuple[Conv, Norm]:
        return self.b, self.b_bn

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, [T,] H, W) -> (N, dim_out, [T,] H/stride, W/stride)."""
        x = self.relu(self.a_bn(self.a(x)))
        return self.b_bn(self.b(x))


class ResBlock(nn.Module):
    """relu(shortcut(x) + branch2(x)); the shortcut is a 1x1x1 projection where shapes change."""

    def __init__(
        self,
        spec: BlockSpec,
        make: Layers,
        transform: Callable[[BlockSpec, Layers], Transform] = Bottleneck,
    ) -> None:
        super().__init__()
        self.branch1: nn.Module | None = None
        if spec.changes_shape:
            strides = {"stride": spec.stride, "temporal_stride": spec.temporal_stride}
            self.branch1 = make.conv(spec.dim_in, spec.dim_out, 1, **strides)
            norm = make.norm(spec.dim_in, affine=False) if spec.input_bn else nn.Identity()
            self.branch1_input_bn = norm
            self.branch1_bn: nn.Module = make.norm(spec.dim_out)
        self.branch2 = transform(spec, make)
        self.relu = make.relu()

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, [T,] H, W) -> (N, dim_out, [T,] H/stride, W/stride)."""
        shortcut = x
        if self.branch1 is not None:
            shortcut = self.branch1_bn(self.branch1(self.branch1_input_bn(x)))
        return self.relu(shortcut + self.branch2(x))


class PreActivation(nn.Module):
    """BN, ReLU, a: 1x1; BN, ReLU, b: 3x3; BN, ReLU, c: 1x1 [; SE]."""

    def __init__(self, spec: BlockSpec, make: Layers) -> None:
        super().__init__()
        a, b, c = bottleneck_convs(spec, make)
        self.a_bn, self.a = make.norm(spec.dim_in), a
        self.b_bn, self.b = make.norm(spec.dim_inner), b
        self.c_bn, self.c = make.norm(spec.dim_inner), c
        self.se = SqueezeExcite(spec.dim_out) if spec.squeeze else nn.Identity()
        self.relu = make.relu()

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        x = self.a(self.relu(self.a_bn(x)))
        x = self.b(self.relu(self.b_bn(x)))
        return self.se(self.c(self.relu(self.c_bn(x))))


class PreActBlock(nn.Module):
    """shortcut(x) + branch2(x); the shortcut BN, ReLU, 1x1 where shapes change."""

    def __init__(self, spec: BlockSpec, make: Layers) -> None:
        super().__init__()
        self.branch1: nn.Module | None = None
        if spec.changes_shape:
            self.branch1 = make.conv(spec.dim_in, spec.dim_out, 1, stride=spec.stride)
            self.branch1_bn = make.norm(spec.dim_in)
        self.branch2 = PreActivation(spec, make)
        self.relu = make.relu()

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        shortcut = x
        if self.branch1 is not None:
            shortcut = self.branch1(self.relu(self.branch1_bn(x)))
        return torch.add(shortcut, self.branch2(x))
