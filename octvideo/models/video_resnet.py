"""C2D, I3D, Slow, R(2+1)D and CSN: video ResNets with one pathway.

The architectures are the tables of ``octvideo.models.spec``.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from octvideo.layers import NonLocal3d, conv3d_as_2d
from octvideo.models.blocks import BasicTransform, BlockSpec, Bottleneck, Layers, ResBlock
from octvideo.models.classifier import Classifier
from octvideo.models.heads import Head
from octvideo.models.init import init_weights
from octvideo.models.pathways import Pathways, Stem
from octvideo.models.spec import TEMPORAL_KERNELS, TIME_ON, ResNetSpec, VideoSpec

TRANSFORMS = {"bottleneck_transform": Bottleneck, "basic_transform": BasicTransform}


class VideoResNet(Classifier):
    """s1 (stem), s2, temporal max pool, s3, s4, s5, head."""

    spec: VideoSpec
    head: Head

    def __init__(self, spec: VideoSpec) -> None:
        super().__init__()
        self.spec = spec
        self.pathways = spec.pathways()
        #                  inner width x expansion, stride 1, 2, 2, 2
        self.s1 = self._stem()
        self.s2 = self._stage(2)  # 64
        self.s3 = self._stage(3)  # 128
        self.s4 = self._stage(4)  # 256
        self.s5 = self._stage(5)  # 512
        self.head = self._head()

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Clips (N, 3, T, H, W), or PySlowFast's list of one for each pathway -> (N, num_classes).

        Logits in training, probabilities in evaluation (``head_activation``).

        Raises:
            ValueError: other shapes, or numbers that are no floats.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Clips, as in ``forward`` -> the maps of res5 of each pathway, (N, C, T', H/32, W/32)."""
        xs = self.s1(self._inputs(x))
        xs = self._pool_time(self.s2(xs))
        xs = self.s3(xs)
        xs = self.s4(xs)
        return self.s5(xs)

    def forward_head(self, xs: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Maps of ``forward_features`` -> (N, num_classes), as in ``forward``.

        ``pre_logits``: what the last layer sees, averaged over positions, (N, C) instead.
        """
        return self.head(xs, pre_logits)

    def init_weights(self) -> None:
        """Draws the first weights."""
        spec = self.spec
        init_weights(self, spec.fc_init_std, spec.zero_init_final_bn, spec.zero_init_final_conv)

    def _inputs(self, x: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The clips of each pathway."""
        xs = [x] if isinstance(x, Tensor) else list(x)
        if len(xs) != 1:
            raise ValueError(f"{self.spec.arch} takes one clip tensor, got a list of {len(xs)}")
        check_clips(xs[0], self.spec.input_channels)
        return xs

    def _pool_time(self, xs: list[Tensor]) -> list[Tensor]:
        size = self.spec.temporal_pool
        return [conv3d_as_2d.max_pool3d(x, (size, 1, 1)) if size > 1 else x for x in xs]

    def _stem(self) -> Pathways:
        return self._pathways([{"stem": _stem(pathway)} for pathway in self.pathways])

    def _stage(self, stage: int, lateral: int = 0) -> Pathways:
        """res``stage`` of each pathway; ``lateral``: channels that the first one gets besides."""
        extra = [lateral] + [0] * (len(self.pathways) - 1)
        return self._pathways(
            [_stage(spec, stage, more) for spec, more in zip(self.pathways, extra, strict=True)]
        )

    def _pathways(self, modules: list[dict[str, nn.Module]]) -> Pathways:
        return Pathways(*modules, recompute=self.spec.act_checkpoint)

    def _head(self) -> Head:
        spec = self.spec
        return Head(
            sum(pathway.width(5) for pathway in self.pathways),
            spec.num_classes,
            [pathway.head_window for pathway in self.pathways],
            spec.dropout_rate,
            spec.head_activation,
        )


def check_clips(clips: Tensor, channels: int) -> None:
    """Raises ValueError unless these are float clips (N, channels, T, H, W)."""
    if clips.ndim != 5 or clips.shape[1] != channels or not clips.is_floating_point():
        raise ValueError(
            f"a video network takes float clips (N, {channels}, T, H, W), got {clips.dtype} "
            f"{tuple(clips.shape)}: of one clip make clip[None], and normalise pixels "
            "(octvideo.data.normalize)"
        )


def _stem(spec: ResNetSpec) -> Stem:
    kernel = TEMPORAL_KERNELS[spec.arch][0][0]
    norm = (spec.bn_eps, spec.bn_momentum)
    return Stem(spec.input_channels, spec.width_per_group, kernel, *norm, spec.pools_stem)


def _stage(spec: ResNetSpec, stage: int, lateral: int) -> dict[str, nn.Module]:
    """The modules of res``stage`` in one pathway, by name."""
    make = Layers(3, spec.bn_eps, spec.bn_momentum, spec.inplace_relu)
    width = spec.width_per_group * 2 ** (stage - 2)
    is_basic = spec.transform == "basic_transform"
    inner = width * (spec.expansion if is_basic else spec.num_groups)
    dim_in, dim_out = spec.width(stage - 1) + lateral, spec.width(stage)
    temporal_stride, stride = spec.strides(stage)
    modules: dict[str, nn.Module] = {}
    for i, kernel in enumerate(spec.temporal_kernels(stage)):
        block = BlockSpec(
            dim_in,
            inner,
            dim_out,
            temporal_kernel=kernel,
            stride=stride if i == 0 else 1,
            dilation=spec.spatial_dilations[stage - 2],
            groups=inner if spec.arch == "csn" else spec.num_groups,
            temporal_stride=temporal_stride if i == 0 else 1,
            stride_on="a" if spec.stride_1x1 else "b",
            time_on=TIME_ON.get(spec.arch, "a"),
        )
        modules[f"res{i}"] = ResBlock(block, make, TRANSFORMS[spec.transform])
        if i in spec.non_local.blocks[stage - 2]:
            modules[f"nonlocal{i}"] = NonLocal3d(
                dim_out,
                spec.non_local.instantiation,
                spec.non_local.pools[stage - 2],
                spec.non_local.groups[stage - 2],
                eps=spec.bn_eps,
                momentum=spec.bn_momentum,
            )
        dim_in = dim_out
    return modules
