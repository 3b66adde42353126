"""DenseNet (Huang et al., "Densely Connected Convolutional Networks").

               layers of s2..s5        before them           after a layer
    121        6  12  24  16           stem of 64            32 channels more

Between two stages a transition halves the channels and the resolution.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.models.blocks import Layers
from octvideo.models.heads import ImageHead
from octvideo.models.image import ImageNetwork, ImageSpec, images_of
from octvideo.models.resnet2d import Stem2d
from octvideo.models.spec import check_counts

LAYERS = {121: (6, 12, 24, 16)}


@dataclass(frozen=True)
class DenseNetSpec(ImageSpec):
    """Everything that a DenseNet is built from.

    ``width``: of the stem; ``growth``: channels that a layer adds, its 1x1 convolution has
    ``bottleneck`` times as many.
    """

    depth: int = 121
    width: int = 64
    growth: int = 32
    bottleneck: int = 4
    bn_eps: float = 1e-4
    bn_momentum: float = 0.08

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth not in LAYERS:
            known = ", ".join(map(str, LAYERS))
            raise ValueError(f"no DenseNet of depth {self.depth}; depths: {known}")
        check_counts(self, "width", "growth", "bottleneck")


DENSENETS = {"densenet121": DenseNetSpec()}


class DenseNet(ImageNetwork):
    """stem, s2, s3, s4, s5 (transition but in s2, dense layers), tail (BN, ReLU), head."""

    spec: DenseNetSpec

    def __init__(self, spec: DenseNetSpec) -> None:
        super().__init__()
        self.spec = spec
        make = Layers(2, spec.bn_eps, spec.bn_momentum)
        width, counts = spec.width, LAYERS[spec.depth]
        self.stem = Stem2d(spec.input_channels, width, make)
        for stage, count in zip((2, 3, 4, 5), counts, strict=True):
            modules: OrderedDict[str, nn.Module] = OrderedDict()
            if stage > 2:
                modules["transition"] = Transition(make, width, width // 2)
                width //= 2
            for i in range(count):
                modules[f"block{i}"] = DenseLayer(
                    make, width, spec.growth * spec.bottleneck, spec.growth
                )
                width += spec.growth
            self.add_module(f"s{stage}", nn.Sequential(modules))
        self.tail = nn.Sequential(OrderedDict(bn=make.norm(width), relu=make.relu()))
        self.head = ImageHead(width, spec.num_classes, spec.dropout_rate, spec.head_activation)

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images (N, 3, H, W), or clips of one frame (N, 3, 1, H, W) -> maps (N, C, H/32, W/32)."""
        y = self.stem(images_of(x))
        for stage in range(2, 6):
            y = self.get_submodule(f"s{stage}")(y)
        return self.tail(y)


class DenseLayer(nn.Module):
    """[x, y], with y: BN, ReLU, 1x1; BN, ReLU, 3x3 of x."""

    def __init__(self, make: Layers, dim_in: int, inner: int, growth: int) -> None:
        super().__init__()
        self.bn1 = make.norm(dim_in)
        self.conv1 = make.conv(dim_in, inner, 1)
        self.bn2 = make.norm(inner)
        self.conv2 = make.conv(inner, growth, 3)
        self.relu = make.relu()

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_in + growth, H, W)."""
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        return torch.cat([x, y], dim=1)


class Transition(nn.Module):
    """BN, ReLU, 1x1, average pool 2x2 / 2."""

    def __init__(self, make: Layers, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.bn = make.norm(dim_in)
        self.conv = make.conv(dim_in, dim_out, 1)
        self.relu = make.relu()

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H/2, W/2), rounded down."""
        return F.avg_pool2d(self.conv(self.relu(self.bn(x))), 2)
