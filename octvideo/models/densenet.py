"""DenseNet (Huang et al., "Densely Connected Convolutional Networks"), plain or octave.

               layers of s2..s5        before them           after a layer
    121        6  12  24  16           stem of 64            32 channels more

Between two stages a transition halves the channels and the resolution. The details of the octave
network are those of the paper authors' code: every layer of s2, s3 and s4 makes high and low
channels, so each frequency grows by its own, and the transition before s5 is the last octave
layer. An octave network can not take over the weights of a vanilla one: it keeps the channels of
all layers as [all L | all H], where the vanilla network has one layer after the other.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import Channels, OctBatchNorm2d, OctConv2d, Value, per_frequency, pool
from octvideo.layers.eager import relu_
from octvideo.layers.max_pool import max_pool2d
from octvideo.layers.octave_ablation import ablate
from octvideo.models.image import ImageHead, ImageNetwork, ImageSpec, images_of, init_image_weights
from octvideo.models.spec import check_counts

LAYERS = {121: (6, 12, 24, 16)}
STAGES = (2, 3, 4, 5)


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

    def __init__(self, spec: DenseNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = Stem(spec)
        dim = Channels(spec.width)
        for stage, count in zip(STAGES, LAYERS[spec.depth], strict=True):
            modules: OrderedDict[str, nn.Module] = OrderedDict()
            if stage > 2:
                half = spec.octave.split(dim.total // 2, stage)
                modules["transition"] = Transition(spec, dim, half)
                dim = half
            for i in range(count):
                growth = spec.octave.split(spec.growth, stage)
                inner = spec.octave.split(spec.growth * spec.bottleneck, stage)
                modules[f"block{i}"] = DenseLayer(spec, dim, inner, growth)
                dim = Channels(dim.high + growth.high, dim.low + growth.low)
            self.add_module(f"s{stage}", nn.Sequential(modules))
        self.tail = nn.Sequential(OrderedDict(bn=_norm(spec, dim), relu=_ReLU()))
        self.head = ImageHead(dim.total, spec.num_classes, spec.dropout_rate, spec.head_activation)
        init_image_weights(self, spec.fc_init_std)
        ablate(self, spec.octave.ablation)

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Value:
        """Images (N, 3, H, W), or clips of one frame (N, 3, 1, H, W) -> maps (N, C, H/32, W/32)."""
        y: Value = self.stem(images_of(x))
        for stage in STAGES:
            y = self.get_submodule(f"s{stage}")(y)
        return self.tail(y)


class Stem(nn.Module):
    """conv 7x7 / 2, BN, ReLU, max pool 3x3 / 2. Never octave."""

    def __init__(self, spec: DenseNetSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(spec.input_channels, spec.width, 7, 2, 3, bias=False)
        self.bn = OctBatchNorm2d(spec.width, spec.bn_eps, spec.bn_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H/4, W/4)."""
        x = max_pool2d(self.bn(self.conv(x)), (3, 3), (2, 2), (1, 1))
        return relu_(x)  # after the pool it does the same to a quarter of the values


class DenseLayer(nn.Module):
    """[x, y], with y: BN, ReLU, 1x1; BN, ReLU, 3x3 of x; each frequency is concatenated."""

    def __init__(
        self, spec: DenseNetSpec, dim_in: Channels, inner: Channels, growth: Channels
    ) -> None:
        super().__init__()
        self.bn1 = _norm(spec, dim_in)
        self.conv1 = OctConv2d(dim_in, inner, 1, bias=False)
        self.bn2 = _norm(spec, inner)
        self.conv2 = OctConv2d(inner, growth, 3, padding=1, bias=False)
        self.relu = _ReLU()

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_in + growth, H, W)."""
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        return concatenate(x, y)


class Transition(nn.Module):
    """BN, ReLU, 1x1, average pool 2x2 / 2."""

    def __init__(self, spec: DenseNetSpec, dim_in: Channels, dim_out: Channels) -> None:
        super().__init__()
        self.bn = _norm(spec, dim_in)
        self.conv = OctConv2d(dim_in, dim_out, 1, bias=False)
        self.relu = _ReLU()

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_out, H/2, W/2), rounded down as in vanilla networks."""
        x = self.conv(self.relu(self.bn(x)))
        if isinstance(x, Tensor):
            return F.avg_pool2d(x, 2)
        x_h, x_l = F.avg_pool2d(x[0], 2), pool(x[1])
        h, w = ((n + 1) // 2 for n in x_h.shape[-2:])
        return x_h, x_l[..., :h, :w]


class _ReLU(nn.Module):
    """ReLU of each frequency, in place: the input is a batch norm's output."""

    def forward(self, x: Value) -> Value:
        return per_frequency(relu_, x)


def _norm(spec: DenseNetSpec, channels: Channels) -> OctBatchNorm2d:
    return OctBatchNorm2d(channels, spec.bn_eps, spec.bn_momentum)


def concatenate(x: Value, y: Value) -> Value:
    """Each frequency of x before that of y, along the channels; one of them may be without L."""
    x_h, x_l = (x, None) if isinstance(x, Tensor) else x
    y_h, y_l = (y, None) if isinstance(y, Tensor) else y
    high = torch.cat([x_h, y_h], dim=1)
    lows = [part for part in (x_l, y_l) if part is not None]
    return (high, torch.cat(lows, dim=1)) if lows else high
