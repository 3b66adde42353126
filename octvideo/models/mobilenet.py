"""MobileNetV1 (Howard et al.) and MobileNetV2 (Sandler et al.).

              resolution   1/2     1/4      1/8     1/16                 1/32
    V1        outputs      64      128 x2   256 x2  512 x6               1024 x2
    V2        outputs      16      24 x2    32 x3   64 x4, 96 x3         160 x3, 320

Widths are times the multiplier.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from octvideo.models.blocks import Layers
from octvideo.models.heads import ImageHead
from octvideo.models.image import ImageNetwork, ImageSpec, images_of

#             s1 (1/2)  s2 (1/4)    s3 (1/8)    s4 (1/16)              s5 (1/32)
OUTPUTS = {
    1: ((64,), (128,) * 2, (256,) * 2, (512,) * 6, (1024,) * 2),
    2: ((16,), (24,) * 2, (32,) * 3, (64,) * 4 + (96,) * 3, (160,) * 3 + (320,)),
}
STEM, EXPANSION, TAIL = 32, 6, 1280


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
        """Yields the stage, the number in it, the stride and the output channels of every block."""
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

    spec: MobileNetSpec

    def __init__(self, spec: MobileNetSpec) -> None:
        super().__init__()
        self.spec = spec
        make = Layers(2, spec.bn_eps, spec.bn_momentum)
        width = spec.width(STEM)
        self.stem = ConvNorm(make, spec.input_channels, width, 3, 2, _relu(spec.version))
        blocks: dict[int, OrderedDict[str, nn.Module]] = {s: OrderedDict() for s in range(1, 6)}
        for stage, i, stride, out in spec.blocks():
            if spec.version == 1:
                block: nn.Module = SeparableConv(make, width, out, stride)
            else:
                inner = width * EXPANSION if blocks[1] else width  # but in the first block
                block = InvertedResidual(make, width, inner, out, stride)
            blocks[stage][f"block{i}"] = block
            width = out
        for stage in range(1, 6):
            self.add_module(f"s{stage}", nn.Sequential(blocks[stage]))
        self.tail: nn.Module = nn.Identity()
        if spec.version == 2:
            tail = max(spec.width(TAIL), TAIL)
            self.tail = ConvNorm(make, width, tail, 1, 1, _relu(2))
            width = tail
        self.head = ImageHead(width, spec.num_classes, spec.dropout_rate, spec.head_activation)

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images (N, 3, H, W), or clips of one frame (N, 3, 1, H, W) -> maps (N, C, H/32, W/32)."""
        y = self.stem(images_of(x))
        for stage in range(1, 6):
            y = self.get_submodule(f"s{stage}")(y)
        return self.tail(y)


def _relu(version: int) -> nn.Module:
    return nn.ReLU(inplace=True) if version == 1 else nn.ReLU6(inplace=True)


class ConvNorm(nn.Module):
    """Conv without bias, BN, ReLU or ReLU6."""

    def __init__(
        self, make: Layers, dim_in: int, dim_out: int, kernel: int, stride: int, relu: nn.Module
    ) -> None:
        super().__init__()
        self.conv = make.conv(dim_in, dim_out, kernel, stride=stride)
        self.bn = make.norm(dim_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        return self.relu(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """1: depthwise 3x3, BN, ReLU; 2: 1x1, BN, ReLU."""

    def __init__(self, make: Layers, dim_in: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = make.conv(dim_in, dim_in, 3, stride=stride, groups=dim_in)
        self.bn1 = make.norm(dim_in)
        self.conv2 = make.conv(dim_in, dim_out, 1)
        self.bn2 = make.norm(dim_out)
        self.relu = _relu(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


class InvertedResidual(nn.Module):
    """[x +] 1: 1x1, BN, ReLU6; 2: depthwise 3x3, BN, ReLU6; 3: 1x1, BN of x."""

    def __init__(self, make: Layers, dim_in: int, inner: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = make.conv(dim_in, inner, 1)
        self.bn1 = make.norm(inner)
        self.conv2 = make.conv(inner, inner, 3, stride=stride, groups=inner)
        self.bn2 = make.norm(inner)
        self.conv3 = make.conv(inner, dim_out, 1)
        self.bn3 = make.norm(dim_out)
        self.has_shortcut = stride == 1 and dim_in == dim_out
        self.relu = _relu(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return x + y if self.has_shortcut else y
