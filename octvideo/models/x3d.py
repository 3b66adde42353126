"""X3D: a thin 2D network, expanded step by step along frames, size, width and depth.

Source: "X3D: Expanding Architectures for Efficient Video Recognition" (Feichtenhofer, CVPR 2020),
with PySlowFast's parameter names. XS, S and M, and L with 5, 10, 25, 15 blocks:

              s1        s2       s3       s4       s5       conv5    lin5
    blocks              3        5        11       7
    output    24        24       48       96       192      432      2048
    inner               54       108      216      432
    size      1/2       1/4      1/8      1/16     1/32     1/32     1

              clip          crop
    XS        4 x 12        160
    S         13 x 6        160
    M         16 x 5        224
    L         16 x 5        312
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import BatchNorm3d, Conv3d
from octvideo.models.blocks import (
    BlockSpec,
    Conv,
    Layers,
    Norm,
    ResBlock,
    Transform,
    bottleneck_convs,
)
from octvideo.models.heads import Head
from octvideo.models.pathways import Pathways
from octvideo.models.spec import VideoSpec, check_counts
from octvideo.models.video_resnet import VideoResNet

DEPTHS = (1, 2, 5, 3)  # blocks of s2..s5, times depth_factor
SQUEEZE = 1 / 16


def round_width(width: float, divisor: int = 1) -> int:
    """Returns the multiple of ``divisor`` that is nearest to a width, at least .9 times it."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


@dataclass(frozen=True)
class X3DSpec(VideoSpec):
    """Everything that an X3D network is built from; names and meanings are PySlowFast's.

    ``dim_c1`` times ``width_factor`` are the channels of the stem and of res2, or twice as many in
    res2 with ``scale_res2``; ``dim_c5``: inputs of the last layer, ``bn_lin5``: with a batch norm.
    ``bottleneck_factor``: inner channels of a block over its outputs. ``channelwise``: the 3x3x3
    convolutions are depthwise; if not, they have ``num_groups``. ``pytorchvideo``: details as
    PyTorchVideo has them. Widths are multiples of 8, and no batch norm follows the projection of a
    shortcut that keeps the width, which is that of res2.
    """

    arch: str = "x3d"
    num_frames: int = 16
    sampling_rate: int = 5
    width_factor: float = 2.0
    depth_factor: float = 2.2
    bottleneck_factor: float = 2.25
    dim_c1: int = 12
    dim_c5: int = 2048
    scale_res2: bool = False
    bn_lin5: bool = False
    channelwise: bool = True
    pytorchvideo: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arch != "x3d":
            raise ValueError(f"an X3D network has arch 'x3d', got {self.arch!r}")
        check_counts(self, "dim_c1", "dim_c5")
        for name in ("width_factor", "depth_factor", "bottleneck_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        is_dilated = set(self.spatial_dilations) != {1}
        if self.pytorchvideo and (self.scale_res2 or not self.channelwise or is_dilated):
            raise ValueError(
                "PyTorchVideo's X3D has no scale_res2, no dilations and only channelwise "
                "convolutions: set pytorchvideo False (X3D.PYTORCHVIDEO), or leave them out"
            )

    def block_counts(self) -> tuple[int, ...]:
        """Returns the blocks of res2..res5."""
        return tuple(math.ceil(self.depth_factor * count) for count in DEPTHS)

    def width(self, stage: int) -> int:
        """Returns the channels that res``stage`` gives; the stem is stage 1."""
        width = self.dim_c1
        for _ in range(stage - 2 + (self.scale_res2 and stage > 1)):
            width = round_width(2 * width, 8)
        return round_width(width * self.width_factor, 8 if self.pytorchvideo else 1)

    def inner(self, stage: int) -> int:
        """Returns the channels between the 1x1x1 convolutions of a block."""
        return int(self.bottleneck_factor * self.width(stage))

    @property
    def head_window(self) -> tuple[int, int, int]:
        """The map (T, H, W) of a clip of ``num_frames`` at ``crop_size`` after res5."""
        side = math.ceil(self.crop_size / 32)
        return (self.num_frames, side, side)


X3DS = {
    "x3d_xs": X3DSpec(num_frames=4, sampling_rate=12, crop_size=160),
    "x3d_s": X3DSpec(num_frames=13, sampling_rate=6, crop_size=160),
    "x3d_m": X3DSpec(),
    "x3d_l": X3DSpec(depth_factor=5.0, crop_size=312),
}


class X3D(VideoResNet):
    """s1 (stem without a pool), s2, s3, s4, s5, head; every stage halves the resolution."""

    spec: X3DSpec

    def _stem(self) -> Pathways:
        return self._pathways([{"stem": X3DStem(self.spec)}])

    def _stage(self, stage: int, lateral: int = 0) -> Pathways:
        spec = self.spec
        make = Layers(3, spec.bn_eps, spec.bn_momentum, spec.inplace_relu)
        dim_in, inner, dim_out = spec.width(stage - 1), spec.inner(stage), spec.width(stage)
        modules: dict[str, nn.Module] = {}
        for i in range(spec.block_counts()[stage - 2]):
            block = BlockSpec(
                dim_in,
                inner,
                dim_out,
                temporal_kernel=3,
                stride=2 if i == 0 else 1,
                dilation=spec.spatial_dilations[stage - 2],
                groups=inner if spec.channelwise else spec.num_groups,
                stride_on="a" if spec.stride_1x1 else "b",
                time_on="b",
                squeeze=i % 2 == 0,
            )
            modules[f"res{i}"] = made = ResBlock(block, make, X3DTransform)
            if spec.pytorchvideo and dim_in == dim_out and i == 0:
                made.branch1_bn = nn.Identity()
            dim_in = dim_out
        return self._pathways([modules])

    def _head(self) -> Head:
        return X3DHead(self.spec)


class X3DStem(nn.Module):
    """conv_xy 1x3x3 / (1,2,2), conv 5x1x1 (depthwise), BN, ReLU."""

    def __init__(self, spec: X3DSpec) -> None:
        super().__init__()
        width = spec.width(1)
        self.conv_xy = Conv3d(
            spec.input_channels, width, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False
        )
        self.conv = Conv3d(width, width, (5, 1, 1), padding=(2, 0, 0), groups=width, bias=False)
        self.bn = BatchNorm3d(width, eps=spec.bn_eps, momentum=spec.bn_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, C, T, H/2, W/2)."""
        return F.relu(self.bn(self.conv(self.conv_xy(x))), inplace=True)


class X3DTransform(Transform):
    """a: 1x1x1, BN, ReLU; b: 3x3x3 (depthwise), BN [, SE], Swish; c: 1x1x1, BN."""

    def __init__(self, spec: BlockSpec, make: Layers) -> None:
        super().__init__()
        a, b, c = bottleneck_convs(spec, make)
        self.a, self.a_bn = a, make.norm(spec.dim_inner)
        self.b, self.b_bn = b, make.norm(spec.dim_inner)
        self.se = X3DSqueezeExcite(spec.dim_inner) if spec.squeeze else nn.Identity()
        self.c, self.c_bn = c, make.norm(spec.dim_out)
        self.relu, self.swish = make.relu(), nn.SiLU()

    @property
    def final(self) -> tuple[Conv, Norm]:
        return self.c, self.c_bn

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, T, H, W) -> (N, dim_out, T, H/stride, W/stride)."""
        x = self.relu(self.a_bn(self.a(x)))
        x = self.swish(self.se(self.b_bn(self.b(x))))
        return self.c_bn(self.c(x))


class X3DSqueezeExcite(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean(x))))), with 1x1x1 convolutions for the matrices."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = round_width(channels * SQUEEZE, 8)
        self.fc1 = Conv3d(channels, inner, 1)
        self.fc2 = Conv3d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> the same."""
        gates = self.fc2(self.fc1(x.mean((2, 3, 4), keepdim=True)).relu()).sigmoid()
        return x * gates


class X3DHead(Head):
    """conv_5: 1x1x1, BN, ReLU; average pool; lin_5: 1x1x1 [, BN], ReLU; dropout, linear layer."""

    def __init__(self, spec: X3DSpec) -> None:
        windows = [spec.head_window]
        super().__init__(
            spec.dim_c5, spec.num_classes, windows, spec.dropout_rate, spec.head_activation
        )
        make = Layers(3, spec.bn_eps, spec.bn_momentum)
        projection = self.projection
        del self.projection  # to come last, as in PySlowFast
        inner = spec.inner(5)
        self.conv_5, self.conv_5_bn = make.conv(spec.width(5), inner, 1), make.norm(inner)
        self.lin_5 = make.conv(inner, spec.dim_c5, 1)
        self.lin_5_bn = make.norm(spec.dim_c5) if spec.bn_lin5 else nn.Identity()
        self.projection = projection

    def pooled(self, xs: Sequence[Tensor]) -> Tensor:
        """[(N, C, T, H, W)] -> (N, dim_c5, T', H', W')."""
        [x] = xs
        x = super().pooled([F.relu(self.conv_5_bn(self.conv_5(x)), inplace=True)])
        x = self.lin_5(x.to(self.lin_5.weight.dtype))
        return F.relu(self.lin_5_bn(x), inplace=True)
