"""SlowFast networks: a slow pathway that sees few frames, a narrow fast one that sees all.

Source: "SlowFast Networks for Video Recognition" (Feichtenhofer et al., ICCV 2019), with
PySlowFast's parameter names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from octvideo.layers import BatchNorm3d, Conv3d
from octvideo.models.spec import NonLocalPlacement, OctavePlacement, ResNetSpec
from octvideo.models.video_resnet import VideoResNet, check_clips


@dataclass(frozen=True)
class SlowFastSpec(ResNetSpec):
    """Everything that a SlowFast network is built from.

    The inherited fields describe the network and its slow pathway; ``num_frames`` are those of the
    fast one. The fast pathway differs in what follows:

    frame_ratio: frames of the fast pathway for one of the slow (alpha of the SlowFast paper).
    beta_inv: channels of the slow pathway for one of the fast.
    fusion_ratio, fusion_kernel: outputs of a lateral convolution for one input, and its kernel
    in time.
    """

    arch: str = "slowfast"
    num_frames: int = 32
    sampling_rate: int = 2
    frame_ratio: int = 8
    beta_inv: int = 8
    fusion_ratio: int = 2
    fusion_kernel: int = 5
    fast_spatial_dilations: tuple[int, ...] = (1, 1, 1, 1)
    fast_num_block_temp_kernel: tuple[int, ...] | None = None
    fast_non_local: NonLocalPlacement = field(default_factory=NonLocalPlacement)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width_per_group % self.beta_inv:
            raise ValueError(
                f"the width {self.width_per_group} of the slow pathway is not divisible by "
                f"beta_inv {self.beta_inv}"
            )
        if self.num_frames % self.frame_ratio:
            raise ValueError(
                f"num_frames {self.num_frames} is not a multiple of frame_ratio {self.frame_ratio}"
            )
        if self.fusion_kernel % 2 == 0:
            raise ValueError(f"the fusion kernel must be odd, got {self.fusion_kernel}")
        self.pathways()  # says what is wrong with them

    def _check_arch(self) -> None:
        if self.arch != "slowfast":
            raise ValueError(f"a SlowFast network has arch 'slowfast', got {self.arch!r}")

    def pathways(self) -> tuple[ResNetSpec, ResNetSpec]:
        """Returns slow and fast."""
        octaves = [
            self.octave if pathway in self.octave.pathways else OctavePlacement()
            for pathway in (0, 1)
        ]
        shared = {f.name: getattr(self, f.name) for f in fields(ResNetSpec) if f.name != "arch"}
        both = ResNetSpec(arch="slow", **shared)
        slow = replace(both, octave=octaves[0], num_frames=self.num_frames // self.frame_ratio)
        fast = replace(
            both,
            arch="fast",
            octave=octaves[1],
            width_per_group=self.width_per_group // self.beta_inv,
            spatial_dilations=self.fast_spatial_dilations,
            num_block_temp_kernel=self.fast_num_block_temp_kernel,
            non_local=self.fast_non_local,
        )
        return slow, fast


class Fuse(nn.Module):
    """slow <- [slow | relu(bn(conv_f2s(fast)))]: t x1x1, stride (frame_ratio, 1, 1)."""

    def __init__(self, width_fast: int, spec: SlowFastSpec) -> None:
        super().__init__()
        self.channels = width_fast * spec.fusion_ratio
        kernel = spec.fusion_kernel
        self.conv_f2s = Conv3d(
            width_fast,
            self.channels,
            (kernel, 1, 1),
            stride=(spec.frame_ratio, 1, 1),
            padding=(kernel // 2, 0, 0),
            bias=False,
        )
        self.bn = BatchNorm3d(self.channels, eps=spec.bn_eps, momentum=spec.bn_momentum)
        self.relu = nn.ReLU(spec.inplace_relu)

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Slow (N, C, T, H, W), fast (N, C', frame_ratio * T, H, W) -> slow with more channels."""
        slow, fast = xs
        return [torch.cat([slow, self.relu(self.bn(self.conv_f2s(fast)))], dim=1), fast]


class SlowFast(VideoResNet):
    """Two pathways: s1, s1_fuse, s2, s2_fuse, s3, s3_fuse, s4, s4_fuse, s5, head of both."""

    spec: SlowFastSpec

    def __init__(self, spec: SlowFastSpec) -> None:
        nn.Module.__init__(self)
        self.spec = spec
        self.pathways = spec.pathways()
        # A table, as a compiler cannot trace how they are computed.
        ratio = spec.frame_ratio
        self._slow_indices = {
            frames: slow_indices(frames, ratio) for frames in range(0, spec.num_frames + 1, ratio)
        }
        self.s1 = self._stem()
        self.s1_fuse = self._fuse(1)
        self.s2 = self._stage(2, self.s1_fuse.channels)
        self.s2_fuse = self._fuse(2)
        self.s3 = self._stage(3, self.s2_fuse.channels)
        self.s3_fuse = self._fuse(3)
        self.s4 = self._stage(4, self.s3_fuse.channels)
        self.s4_fuse = self._fuse(4)
        self.s5 = self._stage(5, self.s4_fuse.channels)
        self.head = self._head()

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Clips, as in ``forward`` -> the maps of res5, slow and fast, (N, C, T', H/32, W/32)."""
        xs = self.s1_fuse(self.s1(self._inputs(x)))
        xs = self.s2_fuse(self.s2(xs))
        xs = self.s3_fuse(self.s3(xs))
        xs = self.s4_fuse(self.s4(xs))
        return self.s5(xs)

    def _inputs(self, x: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The fast clips (N, 3, T, H, W), or both: [slow (N, 3, T / frame_ratio, H, W), fast]."""
        ratio = self.spec.frame_ratio
        for clips in [x] if isinstance(x, Tensor) else x:
            check_clips(clips, self.spec.input_channels)
        if isinstance(x, Tensor):
            frames = int(x.shape[2])  # while a network is traced, a tensor
            indices = self._slow_indices.get(frames, range(frames // ratio))
            x = [select_frames(x, indices), x]
        if len(x) != 2:
            raise ValueError(f"SlowFast takes the fast clip or [slow, fast], got {len(x)} clips")
        slow, fast = x
        frames = fast.shape[2]
        if not 0 < frames <= self.spec.num_frames or frames != ratio * slow.shape[2]:
            raise ValueError(
                f"SlowFast with {self.spec.num_frames} frames takes at most so many, a multiple "
                f"of {ratio}, in the fast pathway and 1/{ratio} of them in the slow one; "
                f"got {frames} and {slow.shape[2]}"
            )
        return [slow, fast]

    def _fuse(self, stage: int) -> Fuse:
        return Fuse(self.pathways[1].width(stage), self.spec)


def select_frames(fast: Tensor, indices: Sequence[int]) -> Tensor:
    """(N, C, T, H, W) -> (N, C, len(indices), H, W)."""
    # Slices rather than an index tensor, which would have to wait for the device.
    return torch.stack([fast[:, :, i] for i in indices], dim=2) if indices else fast[:, :, :0]


def slow_indices(num_frames: int, frame_ratio: int) -> tuple[int, ...]:
    """``linspace(0, T - 1, T // frame_ratio)`` in float32, truncated (PySlowFast)."""
    count = num_frames // frame_ratio
    return tuple(torch.linspace(0, num_frames - 1, count, device="cpu").long().tolist())
