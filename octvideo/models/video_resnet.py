"""C2D and I3D: video ResNets with one pathway, plain or octave.

                conv1      pool1      res2     pool    res3     res4          res5
    C2D         1x7x7      1x3x3      1        2x1x1   1        1             1
    I3D         5x7x7      1x3x3      3        2x1x1   3,1      3,1           1,3
    stride      1,2,2      1,2,2      1        2,1,1   2        2             2

The numbers under a stage are the temporal kernels of its blocks' first convolution, repeated
over the blocks (PySlowFast; Wang et al., "Non-local Neural Networks", table 1).
"""

from dataclasses import dataclass
from itertools import cycle, islice

import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import Channels, Value, per_frequency, split_channels
from octvideo.models.blocks import BlockSpec, Head, Pathways, ResBlock, Stem, init_weights

#             conv1  res2  res3    res4    res5
TEMPORAL_KERNELS = {
    "c2d": ((1,), (1,), (1,), (1,), (1,)),
    "i3d": ((5,), (3,), (3, 1), (3, 1), (1, 3)),
}
TEMPORAL_POOL = {"c2d": 2, "i3d": 2}  # after res2

BLOCKS_PER_STAGE = {
    "bottleneck_transform": {
        14: (1, 1, 1, 1),
        18: (2, 2, 2, 2),  # PySlowFast's name of 26
        26: (2, 2, 2, 2),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
    },
    "basic_transform": {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
}


@dataclass(frozen=True)
class OctavePlacement:
    """Which stages of a backbone are octave, and how their channels are split.

    ``stages`` (2, 3, 4, 5): all convolutions of res2..res5, the last one back to a plain tensor.
    ``stages`` (2, 3, 4): the authors' rule for 2D networks; res5 is plain, and its first
    convolutions join the two frequencies.
    """

    alpha: float = 0.0
    stages: tuple[int, ...] = (2, 3, 4, 5)
    channel_divisor: int = 1

    def __post_init__(self) -> None:
        if not set(self.stages) <= {2, 3, 4, 5}:
            raise ValueError(f"octave stages must be among 2, 3, 4, 5, got {self.stages}")
        split_channels(64, self.alpha, self.channel_divisor)  # says what is wrong with them

    def split(self, channels: int, stage: int) -> Channels:
        """The channel pair of a map of ``stage``."""
        if stage not in self.stages:
            return Channels(channels)
        return split_channels(channels, self.alpha, self.channel_divisor)


@dataclass(frozen=True)
class ResNetSpec:
    """Everything that a video ResNet is built from; strides and dilations are for res2..res5.

    ``expansion``: output channels of a stage over its width. PySlowFast uses 4 for basic blocks
    too; 1 gives the ResNet-18 of He et al.
    ``num_block_temp_kernel``: how many blocks of each stage have temporal kernels (the rest
    have kernel 1); None means all. ``num_frames`` and ``crop_size`` give the head its window.
    """

    arch: str = "i3d"
    depth: int = 50
    num_classes: int = 400
    octave: OctavePlacement = OctavePlacement()
    transform: str = "bottleneck_transform"
    num_frames: int = 8
    crop_size: int = 224
    input_channels: int = 3
    width_per_group: int = 64
    expansion: int = 4
    num_groups: int = 1
    spatial_strides: tuple[int, ...] = (1, 2, 2, 2)
    spatial_dilations: tuple[int, ...] = (1, 1, 1, 1)
    num_block_temp_kernel: tuple[int, ...] | None = None
    stride_1x1: bool = False
    inplace_relu: bool = True
    zero_init_final_bn: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    dropout_rate: float = 0.5
    fc_init_std: float = 0.01
    head_activation: str = "softmax"

    def __post_init__(self) -> None:
        if self.arch not in TEMPORAL_KERNELS:
            raise ValueError(f"unknown arch {self.arch!r}; known: {', '.join(TEMPORAL_KERNELS)}")
        depths = BLOCKS_PER_STAGE.get(self.transform)
        if depths is None:
            known = ", ".join(BLOCKS_PER_STAGE)
            raise ValueError(f"unknown transform {self.transform!r}; known: {known}")
        if self.depth not in depths:
            known = ", ".join(map(str, depths))
            raise ValueError(f"{self.transform} has no depth {self.depth}; depths: {known}")

        for name in ("num_classes", "num_frames", "crop_size", "input_channels", "width_per_group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("spatial_strides", "spatial_dilations", "num_block_temp_kernel"):
            values = getattr(self, name)
            if values is not None and len(values) != 4:
                raise ValueError(f"{name} needs a value for each of res2..res5, got {values}")

    def block_counts(self) -> tuple[int, ...]:
        return BLOCKS_PER_STAGE[self.transform][self.depth]

    def temporal_kernels(self, stage: int) -> list[int]:
        """The temporal kernel of each block of a stage."""
        count = self.block_counts()[stage - 2]
        kernels = list(islice(cycle(TEMPORAL_KERNELS[self.arch][stage - 1]), count))
        if self.num_block_temp_kernel is not None:
            kernels[self.num_block_temp_kernel[stage - 2] :] = [1]
        return (kernels + [1] * count)[:count]


class VideoResNet(nn.Module):
    """s1 (stem), s2, temporal max pool, s3, s4, s5, head."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width_per_group
        conv1_kernel = TEMPORAL_KERNELS[spec.arch][0][0]
        stem = Stem(spec.input_channels, width, conv1_kernel, spec.bn_eps, spec.bn_momentum)
        self.s1 = Pathways({"stem": stem})
        dim = Channels(width)
        self.s2, dim = self._stage(2, dim)
        self.s3, dim = self._stage(3, dim)
        self.s4, dim = self._stage(4, dim)
        self.s5, dim = self._stage(5, dim)
        pool = TEMPORAL_POOL[spec.arch]
        side = max(spec.crop_size // 32, 1)
        window = (max(spec.num_frames // pool, 1), side, side)
        self.head = Head(
            dim.total, spec.num_classes, [window], spec.dropout_rate, spec.head_activation
        )
        init_weights(self, spec.fc_init_std, spec.zero_init_final_bn)

    def _stage(self, stage: int, dim_in: Channels) -> tuple[Pathways, Channels]:
        spec, octave = self.spec, self.spec.octave
        width = spec.width_per_group * 2 ** (stage - 2)
        dim_out = octave.split(width * spec.expansion, stage)
        is_basic = spec.transform == "basic_transform"
        inner = octave.split(width * (spec.expansion if is_basic else spec.num_groups), stage)
        kernels = spec.temporal_kernels(stage)
        blocks: dict[str, nn.Module] = {}
        for i, kernel in enumerate(kernels):
            if stage == 5 and i == len(kernels) - 1:
                dim_out = Channels(dim_out.total)  # the head takes a plain tensor
            block = BlockSpec(
                dim_in,
                inner,
                dim_out,
                temporal_kernel=kernel,
                stride=spec.spatial_strides[stage - 2] if i == 0 else 1,
                dilation=spec.spatial_dilations[stage - 2],
                groups=spec.num_groups,
                stride_1x1=spec.stride_1x1,
                inplace_relu=spec.inplace_relu,
                bn_eps=spec.bn_eps,
                bn_momentum=spec.bn_momentum,
            )
            blocks[f"res{i}"] = ResBlock(block, spec.transform)
            dim_in = dim_out
        return Pathways(blocks), dim_out

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """Clips (N, 3, T, H, W), or PySlowFast's list of one -> (N, num_classes).

        Logits in training, probabilities in evaluation (``head_activation``).
        """
        xs: list[Value] = [x] if isinstance(x, Tensor) else list(x)
        if len(xs) != 1:
            raise ValueError(f"{self.spec.arch} has one pathway, got {len(xs)} inputs")
        xs = self.s2(self.s1(xs))
        xs = [per_frequency(self._temporal_pool, value) for value in xs]
        return self.head(self.s5(self.s4(self.s3(xs))))

    def _temporal_pool(self, x: Tensor) -> Tensor:
        return F.max_pool3d(x, (TEMPORAL_POOL[self.spec.arch], 1, 1))
