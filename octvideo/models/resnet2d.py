"""The paper's 2D residual networks, plain or octave.

              blocks res2..res5
    26        2  2  2  2              inner widths  64  128  256   512  (32x4d: twice that)
    50        3  4  6  3              outer widths 256  512 1024  2048
    101       3  4 23  3              stride         1    2    2     2
    152       3  8 36  3
    200       3 24 36  3

v2 is pre-activation (He et al., "Identity Mappings in Deep Residual Networks"), the networks of
the paper's ablation, ResNeXt and SE-ResNet included. v1b is post-activation with the stride on
the 3x3 convolution, the image network of C2D: its parameters have C2D's names, so that it can be
inflated, and its vanilla form is torchvision's ResNet. v1e has a stem of three 3x3 convolutions
and the stride on the last 1x1; v1f also has a light residual block in place of the max pool (Chen
et al., "Big-Little Net"). The details are those of the authors' code. It strides v1f's blocks on
the last 1x1 too, which gives 10.82 billion multiply-adds at alpha .125 (the paper: 10.9), and the
3x3 of the light block; with the stride on every 3x3 they were 9.91.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.layers import (
    Channels,
    OctBatchNorm2d,
    OctConv2d,
    Value,
    convert,
    per_frequency,
    pool_high,
)
from octvideo.layers.eager import relu_
from octvideo.layers.glore import GloRe2d
from octvideo.layers.max_pool import max_pool2d
from octvideo.layers.octave_ablation import ablate
from octvideo.layers.se import SqueezeExcite
from octvideo.models.image import ImageHead, ImageNetwork, ImageSpec, images_of, init_image_weights
from octvideo.models.recompute import run_and_recompute

DEPTHS = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
STAGES = (2, 3, 4, 5)
STEMS = ("7x7", "3x3", "light")


@dataclass(frozen=True)
class ResNet2dSpec(ImageSpec):
    """Everything that a 2D ResNet is built from.

    ``width``: of the stem and of res2's inner convolutions, which have ``inner_ratio`` times as
    many channels. ``stem``: a 7x7 convolution ("7x7") or three of 3x3 ("3x3") and a max pool, or
    three narrower ones and a light residual block ("light"). ``stride_on``: the convolution of a
    block, "b" (3x3) or "c" (the last 1x1). ``squeeze``: squeeze-and-excitation. ``input_bn``: a
    batch norm without scale and shift before each branch and projection. ``glore_blocks``: blocks
    of res4, from 0, that a global reasoning unit follows. ``act_checkpoint``: blocks keep their
    input only, and run again in the backward pass.
    """

    depth: int = 50
    pre_activation: bool = False
    width: int = 64
    inner_ratio: int = 1
    groups: int = 1
    stem: str = "7x7"
    stride_on: str = "b"
    squeeze: bool = False
    input_bn: bool = False
    glore_blocks: tuple[int, ...] = ()
    zero_init_final_bn: bool = False
    act_checkpoint: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("depth", tuple(DEPTHS)), ("stem", STEMS), ("stride_on", ("b", "c"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} of a 2D ResNet must be one of {', '.join(map(str, known))}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.pre_activation and (self.zero_init_final_bn or self.input_bn):
            raise ValueError(
                "zero_init_final_bn and input_bn are for post-activation networks: no batch norm "
                "ends a branch of a pre-activation one"
            )


_V2: dict[str, Any] = {"pre_activation": True, "bn_eps": 1e-4, "bn_momentum": 0.08}
_32X4D: dict[str, Any] = {"inner_ratio": 2, "groups": 32, **_V2}
RESNETS_2D = {
    **{f"resnet{depth}_v1b": ResNet2dSpec(depth=depth) for depth in DEPTHS},
    **{f"resnet{depth}_v2": ResNet2dSpec(depth=depth, **_V2) for depth in DEPTHS},
    "resnet152_v1f": ResNet2dSpec(depth=152, stem="light", stride_on="c"),
    "se_resnet152_v1e": ResNet2dSpec(
        depth=152, stem="3x3", stride_on="c", squeeze=True, input_bn=True
    ),
    "resnext50_32x4d": ResNet2dSpec(depth=50, **_32X4D),
    "resnext101_32x4d": ResNet2dSpec(depth=101, **_32X4D),
    "se_resnet50": ResNet2dSpec(squeeze=True, **_V2),
    "glore_resnet50": ResNet2dSpec(glore_blocks=(1, 3, 5), **_V2),
}


class ResNet2d(ImageNetwork):
    """s1 (stem), s2, s3, s4, s5, tail (BN, ReLU, where the blocks are pre-activation), head."""

    def __init__(self, spec: ResNet2dSpec) -> None:
        super().__init__()
        self.spec = spec
        self.s1 = nn.Sequential(OrderedDict(pathway0_stem=_stem(spec)))
        dim = Channels(spec.width)
        for stage in STAGES:
            modules, dim = _stage(spec, stage, dim)
            self.add_module(f"s{stage}", _Stage(modules, spec.act_checkpoint))
        self.tail = nn.Sequential()
        if spec.pre_activation:
            bn = OctBatchNorm2d(dim.total, spec.bn_eps, spec.bn_momentum)
            self.tail = nn.Sequential(OrderedDict(bn=bn, relu=nn.ReLU(inplace=True)))
        self.head = ImageHead(dim.total, spec.num_classes, spec.dropout_rate, spec.head_activation)
        init_image_weights(self, spec.fc_init_std)
        ablate(self, spec.octave.ablation)
        for module in self.modules():
            if isinstance(module, GloRe2d):  # starts as the identity
                nn.init.zeros_(module.bn.weight)
            elif spec.zero_init_final_bn and isinstance(module, PostActivation):
                nn.init.zeros_(module.c_bn.weight)

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Value:
        """Images (N, 3, H, W), or clips of one frame (N, 3, 1, H, W) -> maps (N, C, H/32, W/32)."""
        y: Value = self.s1(images_of(x))
        for stage in STAGES:
            y = self.get_submodule(f"s{stage}")(y)
        return self.tail(y)


class _Stage(nn.Sequential):
    """Blocks in sequence; ``recompute``: in training, what is inside them is computed again."""

    def __init__(self, modules: "OrderedDict[str, nn.Module]", recompute: bool) -> None:
        super().__init__(modules)
        self.recompute = recompute

    def forward(self, x: Value) -> Value:
        for module in self:
            x = run_and_recompute(module, x) if self.recompute and self.training else module(x)
        return x


def _stage(
    spec: ResNet2dSpec, stage: int, dim_in: Channels
) -> tuple["OrderedDict[str, nn.Module]", Channels]:
    """The modules of res``stage``, by C2D's names, and the channels of their output."""
    width = spec.width * 2 ** (stage - 2)
    inner = spec.octave.split(width * spec.inner_ratio, stage)
    dim_out = spec.octave.split(width * 4, stage)
    count = DEPTHS[spec.depth][stage - 2]
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(count):
        if stage == 5 and i == count - 1:
            dim_out = Channels(dim_out.total)  # the head takes a plain tensor
        stride = 2 if stage > 2 and i == 0 else 1
        layers = _Layers(spec, dim_in, inner, dim_out, stride)
        modules[f"pathway0_res{i}"] = (PreActBlock if spec.pre_activation else PostActBlock)(layers)
        if stage == 4 and i in spec.glore_blocks:
            glore = GloRe2d(dim_out, eps=spec.bn_eps, momentum=spec.bn_momentum)
            modules[f"pathway0_glore{i}"] = glore
        dim_in = dim_out
    return modules, dim_out


@dataclass(frozen=True)
class _Layers:
    """Makes the layers of one residual block, which has these channel pairs and this stride."""

    spec: ResNet2dSpec
    dim_in: Channels
    dim_inner: Channels
    dim_out: Channels
    stride: int

    def conv(
        self, dim_in: Channels, dim_out: Channels, kernel: int, stride: int = 1, groups: int = 1
    ) -> OctConv2d:
        """Without bias; the last block with low channels pools in its plain layers too."""
        return OctConv2d(
            dim_in,
            dim_out,
            kernel,
            stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
            pool_stride=self.dim_in.low > 0,
        )

    def norm(self, channels: Channels, affine: bool = True) -> OctBatchNorm2d:
        return OctBatchNorm2d(channels, self.spec.bn_eps, self.spec.bn_momentum, affine)

    def input_norm(self) -> nn.Module:
        return self.norm(self.dim_in, affine=False) if self.spec.input_bn else nn.Identity()

    def squeeze(self) -> nn.Module:
        return SqueezeExcite(self.dim_out) if self.spec.squeeze else nn.Identity()

    def convs(self) -> tuple[OctConv2d, OctConv2d, OctConv2d]:
        """a: 1x1, b: 3x3, c: 1x1, one of the last two with the stride."""
        inner, on_b = self.dim_inner, self.spec.stride_on == "b"
        stride_b, stride_c = (self.stride, 1) if on_b else (1, self.stride)
        return (
            self.conv(self.dim_in, inner, 1),
            self.conv(inner, inner, 3, stride_b, self.spec.groups),
            self.conv(inner, self.dim_out, 1, stride_c),
        )

    def projection(self) -> OctConv2d | None:
        """The shortcut where shapes change: 1x1 with the stride."""
        if self.dim_in.total == self.dim_out.total and self.stride == 1:
            return None
        return self.conv(self.dim_in, self.dim_out, 1, self.stride)


class PostActivation(nn.Module):
    """[BN without scale and shift;] a: 1x1, BN, ReLU; b: 3x3, BN, ReLU; c: 1x1, BN [; SE]."""

    def __init__(self, layers: _Layers) -> None:
        super().__init__()
        self.input_bn = layers.input_norm()
        a, b, c = layers.convs()
        self.a, self.a_bn = a, layers.norm(layers.dim_inner)
        self.b, self.b_bn = b, layers.norm(layers.dim_inner)
        self.c, self.c_bn = c, layers.norm(layers.dim_out)
        self.se = layers.squeeze()

    def forward(self, x: Value, pooled: Tensor | None = None) -> Value:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride); pooled: see OctConv2d."""
        x = _relu(self.a_bn(self.a(self.input_bn(x), pooled)))
        x = _relu(self.b_bn(self.b(x)))
        return self.se(self.c_bn(self.c(x)))


class PostActBlock(nn.Module):
    """relu(shortcut(x) + branch2(x)); the shortcut [BN,] 1x1, BN where shapes change."""

    def __init__(self, layers: _Layers) -> None:
        super().__init__()
        self.dim_out = layers.dim_out
        self.branch1 = layers.projection()
        if self.branch1 is not None:
            self.branch1_input_bn = layers.input_norm()
            self.branch1_bn = layers.norm(layers.dim_out)
        self.branch2 = PostActivation(layers)
        self.shares_pooled = not layers.spec.input_bn and self.branch2.a.needs_pooled

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        if self.branch1 is not None:
            pooled = pool_high(x) if self.shares_pooled else None  # for both branches
            shortcut = self.branch1_bn(self.branch1(self.branch1_input_bn(x), pooled))
            y = self.branch2(x, pooled)
        else:
            shortcut, y = convert(x, self.dim_out), self.branch2(x)
        return _relu(per_frequency(torch.add, shortcut, y))


class PreActivation(nn.Module):
    """BN, ReLU, a: 1x1; BN, ReLU, b: 3x3; BN, ReLU, c: 1x1 [; SE]."""

    def __init__(self, layers: _Layers) -> None:
        super().__init__()
        a, b, c = layers.convs()
        self.a_bn, self.a = layers.norm(layers.dim_in), a
        self.b_bn, self.b = layers.norm(layers.dim_inner), b
        self.c_bn, self.c = layers.norm(layers.dim_inner), c
        self.se = layers.squeeze()

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        x = self.a(_relu(self.a_bn(x)))
        x = self.b(_relu(self.b_bn(x)))
        return self.se(self.c(_relu(self.c_bn(x))))


class PreActBlock(nn.Module):
    """shortcut(x) + branch2(x); the shortcut BN, ReLU, 1x1 where shapes change."""

    def __init__(self, layers: _Layers) -> None:
        super().__init__()
        self.dim_out = layers.dim_out
        self.branch1 = layers.projection()
        if self.branch1 is not None:
            self.branch1_bn = layers.norm(layers.dim_in)
        self.branch2 = PreActivation(layers)

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        if self.branch1 is not None:
            shortcut = self.branch1(_relu(self.branch1_bn(x)))
        else:
            shortcut = convert(x, self.dim_out)
        return per_frequency(torch.add, shortcut, self.branch2(x))


def _relu(x: Value) -> Value:
    """ReLU in place: the input is always a batch norm's output or a sum."""
    return per_frequency(relu_, x)


def _stem(spec: ResNet2dSpec) -> nn.Module:
    return Stem2d(spec) if spec.stem == "7x7" else DeepStem(spec)


class Stem2d(nn.Module):
    """conv 7x7 / 2, BN, ReLU, max pool 3x3 / 2. Never octave."""

    def __init__(self, spec: ResNet2dSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(spec.input_channels, spec.width, 7, 2, 3, bias=False)
        self.bn = OctBatchNorm2d(spec.width, spec.bn_eps, spec.bn_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H/4, W/4)."""
        x = max_pool2d(self.bn(self.conv(x)), (3, 3), (2, 2), (1, 1))
        return relu_(x)  # after the pool it does the same to a quarter of the values


class DeepStem(nn.Module):
    """Three times conv 3x3, BN, ReLU, one with stride 2; then a max pool or a residual block."""

    def __init__(self, spec: ResNet2dSpec) -> None:
        super().__init__()
        width, is_light = spec.width, spec.stem == "light"
        widths = (width // 8 if is_light else width // 2, width // 2, width)
        strides = (1, 2, 1) if is_light else (2, 1, 1)
        channels = spec.input_channels
        for letter, out, stride in zip("abc", widths, strides, strict=True):
            self.add_module(letter, nn.Conv2d(channels, out, 3, stride, 1, bias=False))
            self.add_module(f"{letter}_bn", OctBatchNorm2d(out, spec.bn_eps, spec.bn_momentum))
            channels = out
        self.pool: nn.Module = nn.MaxPool2d(3, 2, 1)
        if is_light:
            plain = ResNet2dSpec(bn_eps=spec.bn_eps, bn_momentum=spec.bn_momentum)
            dims = (Channels(width), Channels(width // 2), Channels(width))
            self.pool = PostActBlock(_Layers(plain, *dims, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H/4, W/4)."""
        for letter in "abc":
            norm = self.get_submodule(f"{letter}_bn")
            x = relu_(norm(self.get_submodule(letter)(x)))
        return self.pool(x)
