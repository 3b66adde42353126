"""MobileNetV1 (Howard et al.) and MobileNetV2 (Sandler et al.), plain or octave.

              resolution   1/2     1/4      1/8     1/16                 1/32
    V1        outputs      64      128 x2   256 x2  512 x6               1024 x2
    V2        outputs      16      24 x2    32 x3   64 x4, 96 x3         160 x3, 320

Widths are times the multiplier. The octave networks are those of the paper authors' code. In V1,
every block of the resolutions 1/4, 1/8, 1/16 takes an octave value. In V2, only the expanded
tensor between a block's 1x1 convolutions is octave, from 1/2 to 1/16. Where a network is octave,
its plain blocks pool for their stride too.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from octvideo.layers import Channels, OctBatchNorm2d, OctConv2d, Value, per_frequency
from octvideo.layers.eager import relu6_, relu_
from octvideo.layers.octave_ablation import ablate
from octvideo.models.image import ImageHead, ImageNetwork, ImageSpec, images_of, init_image_weights

#             s1 (1/2)  s2 (1/4)    s3 (1/8)    s4 (1/16)              s5 (1/32)
OUTPUTS = {
    1: ((64,), (128,) * 2, (256,) * 2, (512,) * 6, (1024,) * 2),
    2: ((16,), (24,) * 2, (32,) * 3, (64,) * 4 + (96,) * 3, (160,) * 3 + (320,)),
}
STEM, EXPANSION, TAIL = 32, 6, 1280
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MobileNetSpec(ImageSpec):
    """Everything that a MobileNet is built from: ``version`` 1 or 2, ``multiplier`` of widths.

    ``octave.stages`` 2..5 are the resolutions 1/4..1/32 of the image; 1/2 goes with 2.
    """

    version: int = 1
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in OUTPUTS:
            raise ValueError(f"version must be 1 or 2, got {self.version}")
        if not 0.1 <= self.multiplier <= 10:
            raise ValueError(f"multiplier must be in [0.1, 10], got {self.multiplier}")

    def width(self, channels: int) -> int:
        return int(channels * self.multiplier)

    def blocks(self) -> Iterator[tuple[int, int, int, int]]:
        """The stage, the number in it, the stride and the output channels of every block."""
        for stage, outputs in enumerate(OUTPUTS[self.version], 1):
            for i, channels in enumerate(outputs):
                yield stage, i, 2 if stage > 1 and i == 0 else 1, self.width(channels)


MOBILENETS = {
    "mobilenet_v1_075": MobileNetSpec(multiplier=0.75),
    "mobilenet_v1_100": MobileNetSpec(),
    "mobilenet_v2_100": MobileNetSpec(version=2),
    "mobilenet_v2_1125": MobileNetSpec(version=2, multiplier=1.125),
}


class MobileNet(ImageNetwork):
    """stem, s1, s2, s3, s4, s5, tail (of V2: 1x1, BN, ReLU6), head."""

    def __init__(self, spec: MobileNetSpec) -> None:
        super().__init__()
        self.spec = spec
        relu = RELUS[spec.version]
        width = spec.width(STEM)
        self.stem = ConvNorm(spec, Channels(spec.input_channels), Channels(width), 3, 2, relu)
        blocks, width = (_v1_blocks if spec.version == 1 else _v2_blocks)(spec, width)
        for stage in range(1, 6):
            self.add_module(f"s{stage}", nn.Sequential(blocks[stage]))
        self.tail: nn.Module = nn.Identity()
        if spec.version == 2:
            tail = max(spec.width(TAIL), TAIL)
            self.tail = ConvNorm(spec, Channels(width), Channels(tail), 1, 1, relu)
            width = tail
        self.head = ImageHead(width, spec.num_classes, spec.dropout_rate, spec.head_activation)
        init_image_weights(self, spec.fc_init_std)
        ablate(self, spec.octave.ablation)

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Value:
        """Images (N, 3, H, W), or clips of one frame (N, 3, 1, H, W) -> maps (N, C, H/32, W/32)."""
        y: Value = self.stem(images_of(x))
        for stage in range(1, 6):
            y = self.get_submodule(f"s{stage}")(y)
        return self.tail(y)


RELUS: dict[int, Activation] = {1: relu_, 2: relu6_}  # in place, of a batch norm's output
Blocks = dict[int, "OrderedDict[str, nn.Module]"]


def _v1_blocks(spec: MobileNetSpec, width: int) -> tuple[Blocks, int]:
    """By stage, and the width of the last. A block's output is what the next one's stage takes."""
    modules: Blocks = {stage: OrderedDict() for stage in range(1, 6)}
    layers = list(spec.blocks())
    dim = Channels(width)
    for (stage, i, stride, out), following in zip(layers, [*layers[1:], None], strict=True):
        dim_out = spec.octave.split(out, following[0]) if following else Channels(out)
        modules[stage][f"block{i}"] = SeparableConv(spec, dim, dim_out, stride)
        dim = dim_out
    return modules, dim.total


def _v2_blocks(spec: MobileNetSpec, width: int) -> tuple[Blocks, int]:
    """By stage, and the width of the last."""
    modules: Blocks = {stage: OrderedDict() for stage in range(1, 6)}
    for stage, i, stride, out in spec.blocks():
        expanded = width * EXPANSION if modules[1] else width  # but in the first block
        inner = spec.octave.split(expanded, max(stage, 2))
        modules[stage][f"block{i}"] = InvertedResidual(spec, width, inner, out, stride)
        width = out
    return modules, width


class ConvNorm(nn.Module):
    """Plain conv without bias, BN, ReLU or ReLU6."""

    def __init__(
        self,
        spec: MobileNetSpec,
        dim_in: Channels,
        dim_out: Channels,
        kernel: int,
        stride: int,
        relu: Activation,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in.total, dim_out.total, kernel, stride, kernel // 2, bias=False)
        self.bn = OctBatchNorm2d(dim_out.total, spec.bn_eps, spec.bn_momentum)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        return self.relu(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """1: depthwise 3x3, BN, ReLU; 2: 1x1, BN, ReLU."""

    def __init__(
        self, spec: MobileNetSpec, dim_in: Channels, dim_out: Channels, stride: int
    ) -> None:
        super().__init__()
        self.conv1 = _depthwise(spec, dim_in, stride)
        self.bn1 = _norm(spec, dim_in)
        self.conv2 = OctConv2d(dim_in, dim_out, 1, bias=False)
        self.bn2 = _norm(spec, dim_out)
        self.relu = RELUS[1]

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        x = per_frequency(self.relu, self.bn1(self.conv1(x)))
        return per_frequency(self.relu, self.bn2(self.conv2(x)))


class InvertedResidual(nn.Module):
    """[x +] 1: 1x1, BN, ReLU6; 2: depthwise 3x3, BN, ReLU6; 3: 1x1, BN of x."""

    def __init__(
        self, spec: MobileNetSpec, width_in: int, inner: Channels, width_out: int, stride: int
    ) -> None:
        super().__init__()
        self.conv1 = OctConv2d((width_in, 0), inner, 1, bias=False)
        self.bn1 = _norm(spec, inner)
        self.conv2 = _depthwise(spec, inner, stride)
        self.bn2 = _norm(spec, inner)
        self.conv3 = OctConv2d(inner, (width_out, 0), 1, bias=False)
        self.bn3 = _norm(spec, Channels(width_out))
        self.has_shortcut = stride == 1 and width_in == width_out
        self.relu = RELUS[2]

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H/stride, W/stride), both plain."""
        y = per_frequency(self.relu, self.bn1(self.conv1(x)))
        y = per_frequency(self.relu, self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.add(x, y) if self.has_shortcut else y


def _depthwise(spec: MobileNetSpec, dim: Channels, stride: int) -> OctConv2d:
    return OctConv2d(
        dim, dim, 3, stride, 1, groups=dim.total, bias=False, pool_stride=spec.is_octave
    )


def _norm(spec: MobileNetSpec, channels: Channels) -> OctBatchNorm2d:
    return OctBatchNorm2d(channels, spec.bn_eps, spec.bn_momentum)
