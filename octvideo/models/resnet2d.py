"""The paper's 2D residual networks.

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
from functools import partial

from torch import Tensor, nn

from octvideo.layers import Conv2d
from octvideo.layers.glore import GloRe2d
from octvideo.layers.max_pool import max_pool2d
from octvideo.models.blocks import BlockSpec, Layers, PreActBlock, ResBlock
from octvideo.models.heads import ImageHead
from octvideo.models.image import ImageNetwork, ImageSpec, images_of
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


_v2 = partial(ResNet2dSpec, pre_activation=True, bn_eps=1e-4, bn_momentum=0.08)
_next_32x4d = partial(_v2, inner_ratio=2, groups=32)
RESNETS_2D = {
    **{f"resnet{depth}_v1b": ResNet2dSpec(depth=depth) for depth in DEPTHS},
    **{f"resnet{depth}_v2": _v2(depth=depth) for depth in DEPTHS},
    "resnet152_v1f": ResNet2dSpec(depth=152, stem="light", stride_on="c"),
    "se_resnet152_v1e": ResNet2dSpec(
        depth=152, stem="3x3", stride_on="c", squeeze=True, input_bn=True
    ),
    "resnext50_32x4d": _next_32x4d(depth=50),
    "resnext101_32x4d": _next_32x4d(depth=101),
    "se_resnet50": _v2(squeeze=True),
    "glore_resnet50": _v2(glore_blocks=(1, 3, 5)),
}


class ResNet2d(ImageNetwork):
    """s1 (stem), s2, s3, s4, s5, tail (BN, ReLU, where the blocks are pre-activation), head."""

    spec: ResNet2dSpec

    def __init__(self, spec: ResNet2dSpec) -> None:
        super().__init__()
        self.spec = spec
        make = Layers(2, spec.bn_eps, spec.bn_momentum)
        width = spec.width
        self.s1 = nn.Sequential(OrderedDict(pathway0_stem=_stem(spec, make)))
        self.s2 = _stage(spec, make, 2, width, 4 * width)  # 64 -> 256
        self.s3 = _stage(spec, make, 3, 4 * width, 8 * width)
        self.s4 = _stage(spec, make, 4, 8 * width, 16 * width)
        self.s5 = _stage(spec, make, 5, 16 * width, 32 * width)  # 1024 -> 2048
        self.tail = nn.Sequential()
        if spec.pre_activation:
            self.tail = nn.Sequential(OrderedDict(bn=make.norm(32 * width), relu=make.relu()))
        self.head = ImageHead(32 * width, spec.num_classes, spec.dropout_rate, spec.head_activation)

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images (N, 3, H, W), or clips of one frame (N, 3, 1, H, W) -> maps (N, C, H/32, W/32)."""
        y = self.s1(images_of(x))
        y = self.s2(y)
        y = self.s3(y)
        y = self.s4(y)
        y = self.s5(y)
        return self.tail(y)

    def init_weights(self) -> None:
        """Draws the first weights."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, GloRe2d):  # starts as the identity
                nn.init.zeros_(module.bn.weight)
            elif self.spec.zero_init_final_bn and isinstance(module, ResBlock):
                nn.init.zeros_(module.branch2.final[1].weight)


class _Stage(nn.Sequential):
    """Blocks in sequence; ``recompute``: in training, what is inside them is computed again."""

    def __init__(self, modules: "OrderedDict[str, nn.Module]", recompute: bool) -> None:
        super().__init__(modules)
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = run_and_recompute(module, x) if self.recompute and self.training else module(x)
        return x


def _stage(spec: ResNet2dSpec, make: Layers, stage: int, dim_in: int, dim_out: int) -> _Stage:
    """res``stage``, its blocks by C2D's names."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(DEPTHS[spec.depth][stage - 2]):
        block = BlockSpec(
            dim_in,
            dim_out // 4 * spec.inner_ratio,
            dim_out,
            stride=2 if stage > 2 and i == 0 else 1,
            groups=spec.groups,
            stride_on=spec.stride_on,
            squeeze=spec.squeeze,
            input_bn=spec.input_bn,
        )
        kind = PreActBlock if spec.pre_activation else ResBlock
        modules[f"pathway0_res{i}"] = kind(block, make)
        if stage == 4 and i in spec.glore_blocks:
            glore = GloRe2d(dim_out, eps=spec.bn_eps, momentum=spec.bn_momentum)
            modules[f"pathway0_glore{i}"] = glore
        dim_in = dim_out
    return _Stage(modules, spec.act_checkpoint)


def _stem(spec: ResNet2dSpec, make: Layers) -> nn.Module:
    if spec.stem == "7x7":
        return Stem2d(spec.input_channels, spec.width, make)
    return DeepStem(spec, make)


class Stem2d(nn.Module):
    """conv 7x7 / 2, BN, ReLU, max pool 3x3 / 2."""

    def __init__(self, channels: int, width: int, make: Layers) -> None:
        super().__init__()
        self.conv = Conv2d(channels, width, 7, 2, 3, bias=False)
        self.bn = make.norm(width)
        self.relu = make.relu()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H/4, W/4)."""
        x = max_pool2d(self.bn(self.conv(x)), (3, 3), (2, 2), (1, 1))
        return self.relu(x)  # after the pool it does the same to a quarter of the values


class DeepStem(nn.Module):
    """Three times conv 3x3, BN, ReLU, one with stride 2; then a max pool or a residual block."""

    def __init__(self, spec: ResNet2dSpec, make: Layers) -> None:
        super().__init__()
        width, is_light = spec.width, spec.stem == "light"
        widths = (width // 8 if is_light else width // 2, width // 2, width)
        strides = (1, 2, 1) if is_light else (2, 1, 1)
        channels = spec.input_channels
        for letter, out, stride in zip("abc", widths, strides, strict=True):
            self.add_module(letter, Conv2d(channels, out, 3, stride, 1, bias=False))
            self.add_module(f"{letter}_bn", make.norm(out))
            channels = out
        self.relu = make.relu()
        self.pool: nn.Module = nn.MaxPool2d(3, 2, 1)
        if is_light:
            self.pool = ResBlock(BlockSpec(width, width // 2, width, stride=2), make)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H/4, W/4)."""
        for letter in "abc":
            norm = self.get_submodule(f"{letter}_bn")
            x = self.relu(norm(self.get_submodule(letter)(x)))
        return self.pool(x)
