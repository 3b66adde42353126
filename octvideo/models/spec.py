"""What a video ResNet is built from: architectures as tables, placement of octave and non-local.

                conv1      pool1      res2     pool    res3     res4          res5
    C2D         1x7x7      1x3x3      1        2x1x1   1        1             1
    I3D         5x7x7      1x3x3      3        2x1x1   3,1      3,1           1,3
    Slow        1x7x7      1x3x3      1                1        3             3
    Fast        5x7x7      1x3x3      3                3        3             3
    Slow C2D, Slow I3D: C2D and I3D without the pool after res2
    stride      1,2,2      1,2,2      1        2,1,1   2        2             2

    R(2+1)D     1x7x7                 3                3        3             3
    stride      1,2,2                 1,2,2            1,2,2    2,2,2         2,2,2
    CSN         3x7x7      1x3x3      3                3        3             3
    stride      1,2,2      1,2,2      1                2,2,2    2,2,2         2,2,2

The numbers under a stage are the temporal kernels of its blocks' first convolution, repeated
over the blocks (PySlowFast; Wang et al., "Non-local Neural Networks", table 1; Feichtenhofer et
al., "SlowFast Networks for Video Recognition", table 1). In R(2+1)D a 3x1x1 convolution before the
1x3x3 one has them (Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action
Recognition"); in CSN (ir-CSN) the 3x3x3 convolution, which is depthwise (Tran et al., "Video
Classification with Channel-Separated Convolutional Networks"). Both are as in PyTorchVideo.
"""

from dataclasses import dataclass
from itertools import cycle, islice
from math import prod
from numbers import Integral
from typing import Any

from octvideo.layers import Channels, split_channels
from octvideo.layers.layout import Runs
from octvideo.layers.non_local import INSTANTIATIONS, OCTAVE_MODES
from octvideo.models.record import NetworkSpec
from octvideo.utils.errors import check_known

#             conv1  res2  res3    res4    res5
TEMPORAL_KERNELS = {
    "c2d": ((1,), (1,), (1,), (1,), (1,)),
    "i3d": ((5,), (3,), (3, 1), (3, 1), (1, 3)),
    "slow": ((1,), (1,), (1,), (3,), (3,)),
    "fast": ((5,), (3,), (3,), (3,), (3,)),
    "r2plus1d": ((1,), (3,), (3,), (3,), (3,)),
    "csn": ((3,), (3,), (3,), (3,), (3,)),
}
TEMPORAL_KERNELS |= {f"slow_{arch}": TEMPORAL_KERNELS[arch] for arch in ("c2d", "i3d")}
TEMPORAL_POOL = {"c2d": 2, "i3d": 2}  # after res2; the others do not pool
# Of res2..res5, where blocks have strides in time.
TEMPORAL_STRIDES = {"r2plus1d": (1, 1, 2, 2), "csn": (1, 2, 2, 2)}
TIME_ON = {"r2plus1d": "b_t", "csn": "b"}  # the convolution with the kernel in time; others: a

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


def check_counts(spec: object, *names: str) -> None:
    """Raises a ValueError unless these fields are whole numbers from 1 on (num_classes: 0)."""
    for name in names:
        value, least = getattr(spec, name), int(name != "num_classes")
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")


@dataclass(frozen=True)
class OctavePlacement:
    """Which stages of a backbone are octave, and how their channels are split.

    ``stages`` (2, 3, 4, 5): all convolutions of res2..res5, the last one back to a plain tensor.
    ``stages`` (2, 3, 4): the authors' rule for 2D networks; res5 is plain, and its first
    convolutions join the two frequencies. ``pathways``: 0 is the slow one of SlowFast, or the
    only one. ``nonlocal_mode``: see ``NonLocal3d``. ``pool_stride``: in a block that leaves the
    octave, plain strided convolutions pool, too, instead. The authors' 2D networks do (and ours
    always), so a video network that is inflated from one has to, to compute the same.
    ``channels``: ranges of low channels by the name of a convolution, of a network that was made
    octave after its training (see ``octvideo.surgery``); they count in place of the stages.
    """

    alpha: float = 0.0
    stages: tuple[int, ...] = (2, 3, 4, 5)
    channel_divisor: int = 1
    pathways: tuple[int, ...] = (0,)
    nonlocal_mode: str = "cross"
    pool_stride: bool = False
    channels: tuple[tuple[str, Runs], ...] = ()

    def __post_init__(self) -> None:
        if not set(self.stages) <= {2, 3, 4, 5}:
            raise ValueError(f"octave stages must be among 2, 3, 4, 5, got {self.stages}")
        if not set(self.pathways) <= {0, 1}:
            raise ValueError(f"octave pathways must be among 0, 1, got {self.pathways}")
        check_known("nonlocal_mode", self.nonlocal_mode, OCTAVE_MODES)
        split_channels(64, self.alpha, self.channel_divisor)  # says what is wrong with them

    def split(self, channels: int, stage: int) -> Channels:
        """Returns the channel pair of a map of ``stage``."""
        if stage not in self.stages:
            return Channels(channels)
        return split_channels(channels, self.alpha, self.channel_divisor)


@dataclass(frozen=True)
class NonLocalPlacement:
    """Which blocks of a pathway, counted from 0, a non-local block follows; for res2..res5 each.

    ``groups``: temporal groups; ``pools``: max pool (T, H, W) of key and value.
    """

    blocks: tuple[tuple[int, ...], ...] = ((), (), (), ())
    instantiation: str = "softmax"
    groups: tuple[int, ...] = (1, 1, 1, 1)
    pools: tuple[tuple[int, int, int], ...] = ((1, 2, 2),) * 4

    def __post_init__(self) -> None:
        check_known("instantiation", self.instantiation, INSTANTIATIONS)
        if any(len(value) != 4 for value in (self.blocks, self.groups, self.pools)):
            raise ValueError(f"a non-local placement is for the four stages res2..res5, got {self}")


# After res3 blocks 1, 3 and res4 blocks 1, 3, 5: the five blocks of the paper's ResNet-50.
NL5 = ((), (1, 3), (1, 3, 5), ())


@dataclass(frozen=True)
class VideoSpec(NetworkSpec):
    """What every video network is built from; dilations are for res2..res5.

    ``num_frames`` frames, ``sampling_rate`` apart at 30 frames a second, in a square crop of
    ``crop_size`` are the clip that the network is made for; they give the head its window.
    ``act_checkpoint``: blocks keep their input only, and run again in the backward pass.
    """

    arch: str = "i3d"
    num_classes: int = 400
    octave: OctavePlacement = OctavePlacement()
    num_frames: int = 8
    sampling_rate: int = 8
    crop_size: int = 224
    input_channels: int = 3
    num_groups: int = 1
    spatial_dilations: tuple[int, ...] = (1, 1, 1, 1)
    stride_1x1: bool = False
    inplace_relu: bool = True
    zero_init_final_bn: bool = False
    zero_init_final_conv: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    dropout_rate: float = 0.5
    fc_init_std: float = 0.01
    head_activation: str = "softmax"
    act_checkpoint: bool = False

    def __post_init__(self) -> None:
        check_counts(self, "num_classes", "num_frames", "crop_size", "input_channels", "num_groups")
        if len(self.spatial_dilations) != 4:
            raise ValueError(
                "spatial_dilations needs a value for each of res2..res5, got "
                f"{self.spatial_dilations}"
            )

    def pathways(self) -> tuple[Any, ...]:
        """Returns the specification of each pathway."""
        return (self,)

    def block_counts(self) -> tuple[int, ...]:
        """Returns the blocks of res2..res5."""
        raise NotImplementedError

    def width(self, stage: int) -> int:
        """Returns the channels that res``stage`` of a pathway gives; the stem is stage 1."""
        raise NotImplementedError

    @property
    def final(self) -> str:
        """The last convolution of a block's branch."""
        return "c"

    @property
    def temporal_pool(self) -> int:
        """Kernel and stride of the max pool over frames after res2; 1 where there is none."""
        return 1

    @property
    def head_window(self) -> tuple[int, int, int]:
        """The map (T, H, W) of a clip of ``num_frames`` at ``crop_size`` after res5."""
        raise NotImplementedError


@dataclass(frozen=True)
class ResNetSpec(VideoSpec):
    """Everything that a video ResNet is built from; strides and dilations are for res2..res5.

    ``expansion``: output channels of a stage over its width. PySlowFast uses 4 for basic blocks
    too; 1 gives the ResNet-18 of He et al.
    ``num_block_temp_kernel``: how many blocks of each stage have temporal kernels (the rest
    have kernel 1); None means all.
    """

    depth: int = 50
    non_local: NonLocalPlacement = NonLocalPlacement()
    transform: str = "bottleneck_transform"
    width_per_group: int = 64
    expansion: int = 4
    spatial_strides: tuple[int, ...] = (1, 2, 2, 2)
    num_block_temp_kernel: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_arch()
        check_known("transform", self.transform, BLOCKS_PER_STAGE)
        depths = BLOCKS_PER_STAGE[self.transform]
        if self.depth not in depths:
            known = ", ".join(map(str, depths))
            raise ValueError(f"{self.transform} has no depth {self.depth}; depths: {known}")
        check_counts(self, "width_per_group")
        for name in ("spatial_strides", "num_block_temp_kernel"):
            values = getattr(self, name)
            if values is not None and len(values) != 4:
                raise ValueError(f"{name} needs a value for each of res2..res5, got {values}")
        for stage, count in enumerate(self.block_counts(), 2):
            if any(block >= count for block in self.non_local.blocks[stage - 2]):
                raise ValueError(
                    f"res{stage} of depth {self.depth} has the blocks 0..{count - 1}; a non-local "
                    f"block cannot follow {self.non_local.blocks[stage - 2]}"
                )

    def _check_arch(self) -> None:
        check_known("arch", self.arch, TEMPORAL_KERNELS)
        fixed = {
            "transform": "bottleneck_transform",
            "num_groups": 1,
            "stride_1x1": False,
            "spatial_dilations": (1, 1, 1, 1),
        }
        for name, value in fixed.items() if self.arch in TIME_ON else ():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} of {self.arch} is {value} always, got {getattr(self, name)!r}"
                )

    def pathways(self) -> tuple["ResNetSpec", ...]:
        """Returns the specification of each pathway."""
        return (self,)

    def block_counts(self) -> tuple[int, ...]:
        """Returns the blocks of res2..res5."""
        return BLOCKS_PER_STAGE[self.transform][self.depth]

    def width(self, stage: int) -> int:
        """Returns the channels that res``stage`` of a pathway gives; the stem is stage 1."""
        if stage == 1:
            return self.width_per_group
        return self.width_per_group * 2 ** (stage - 2) * self.expansion

    def temporal_kernels(self, stage: int) -> list[int]:
        """Returns the temporal kernel of each block of a stage."""
        count = self.block_counts()[stage - 2]
        kernels = list(islice(cycle(TEMPORAL_KERNELS[self.arch][stage - 1]), count))
        if self.num_block_temp_kernel is not None:
            kernels[self.num_block_temp_kernel[stage - 2] :] = [1]
        return (kernels + [1] * count)[:count]

    @property
    def pools_stem(self) -> bool:
        """Whether a max pool follows the stem's convolution; else res2 strides for it."""
        return self.arch != "r2plus1d"

    def strides(self, stage: int) -> tuple[int, int]:
        """Returns the strides of a stage in time and in space."""
        spatial = self.spatial_strides[stage - 2]
        if stage == 2 and not self.pools_stem:
            spatial *= 2
        return TEMPORAL_STRIDES.get(self.arch, (1, 1, 1, 1))[stage - 2], spatial

    @property
    def final(self) -> str:
        """The last convolution of a block's branch."""
        return "b" if self.transform == "basic_transform" else "c"

    @property
    def temporal_pool(self) -> int:
        """Kernel and stride of the max pool over frames after res2; 1 where there is none."""
        return TEMPORAL_POOL.get(self.arch, 1)

    @property
    def head_window(self) -> tuple[int, int, int]:
        """The map (T, H, W) of a clip of ``num_frames`` at ``crop_size`` after res5."""
        side = max(self.crop_size // (4 * prod(self.spatial_strides)), 1)
        shrinks = self.temporal_pool * prod(TEMPORAL_STRIDES.get(self.arch, (1,)))
        return (max(self.num_frames // shrinks, 1), side, side)
