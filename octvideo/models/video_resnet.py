"""C2D, I3D and Slow: video ResNets with one pathway, plain or octave.

The architectures are the tables of ``octvideo.models.spec``.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from octvideo.layers import Channels, NonLocal3d, Value, conv3d_as_2d, per_frequency
from octvideo.layers.octave_ablation import ablate
from octvideo.models.blocks import BlockSpec, Head, Pathways, ResBlock, Stem, init_weights
from octvideo.models.classifier import Classifier
from octvideo.models.spec import TEMPORAL_KERNELS, ResNetSpec

STAGES = (2, 3, 4, 5)


class VideoResNet(Classifier, nn.Module):
    """s1 (stem), s2, temporal max pool, s3, s4, s5, head."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        pathways = spec.pathways()
        self.temporal_pools = [pathway.temporal_pool for pathway in pathways]
        self.s1 = Pathways(*({"stem": _stem(pathway)} for pathway in pathways))
        dims = [Channels(pathway.width_per_group) for pathway in pathways]
        for stage in STAGES:
            dims = self._add_fusion(stage - 1, dims)
            built = [_stage(p, stage, dim) for p, dim in zip(pathways, dims, strict=True)]
            self.add_module(f"s{stage}", Pathways(*(modules for modules, _ in built)))
            dims = [dim for _, dim in built]
        for module in self.children():
            if isinstance(module, Pathways):
                module.recompute = spec.act_checkpoint
        self.head = Head(
            sum(dim.total for dim in dims),
            spec.num_classes,
            [pathway.head_window for pathway in pathways],
            spec.dropout_rate,
            spec.head_activation,
        )
        init_weights(self, spec.fc_init_std, spec.zero_init_final_bn, spec.zero_init_final_conv)
        ablate(self, spec.octave.ablation)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Clips (N, 3, T, H, W), or PySlowFast's list of one for each pathway -> (N, num_classes).

        Logits in training, probabilities in evaluation (``head_activation``).

        Raises:
            ValueError: other shapes, or numbers that are no floats.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> list[Value]:
        """Clips, as in ``forward`` -> the maps of res5 of each pathway, (N, C, T', H/32, W/32)."""
        for clips in [x] if isinstance(x, Tensor) else x:
            self._check(clips)
        xs = self.s1(self._inputs(x))
        for stage in STAGES:
            xs = self.get_submodule(f"s{stage}")(self._fuse(stage - 1, xs))
            if stage == 2:
                xs = self._pool_time(xs)
        return xs

    def forward_head(self, xs: Sequence[Value], pre_logits: bool = False) -> Tensor:
        """Maps of ``forward_features`` -> (N, num_classes), as in ``forward``.

        ``pre_logits``: what the last layer sees, averaged over positions, (N, C) instead.
        """
        return self.head(xs, pre_logits)

    def _check(self, clips: Tensor) -> None:
        channels = self.spec.input_channels
        if clips.ndim != 5 or clips.shape[1] != channels or not clips.is_floating_point():
            raise ValueError(
                f"a video network takes float clips (N, {channels}, T, H, W), got {clips.dtype} "
                f"{tuple(clips.shape)}: of one clip make clip[None], and normalise pixels "
                "(octvideo.data.normalize)"
            )

    def _inputs(self, x: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The clips of each pathway."""
        xs = [x] if isinstance(x, Tensor) else list(x)
        if len(xs) != 1:
            raise ValueError(f"{self.spec.arch} takes one clip tensor, got a list of {len(xs)}")
        return xs

    def _add_fusion(self, stage: int, dims: list[Channels]) -> list[Channels]:
        """Adds what connects the pathways after ``stage``, and returns the channels behind it."""
        return dims

    def _fuse(self, stage: int, xs: list[Value]) -> list[Value]:
        return xs

    def _pool_time(self, xs: list[Value]) -> list[Value]:
        return [
            per_frequency(lambda x, size=size: conv3d_as_2d.max_pool3d(x, (size, 1, 1)), x)
            if size > 1
            else x
            for x, size in zip(xs, self.temporal_pools, strict=True)
        ]


def _stem(spec: ResNetSpec) -> Stem:
    kernel = TEMPORAL_KERNELS[spec.arch][0][0]
    return Stem(spec.input_channels, spec.width_per_group, kernel, spec.bn_eps, spec.bn_momentum)


def _stage(spec: ResNetSpec, stage: int, dim_in: Channels) -> tuple[dict[str, nn.Module], Channels]:
    """The modules of res``stage`` in one pathway, by name, and the channels of their output."""
    octave = spec.octave
    width = spec.width_per_group * 2 ** (stage - 2)
    dim_out = octave.split(width * spec.expansion, stage)
    is_basic = spec.transform == "basic_transform"
    inner = octave.split(width * (spec.expansion if is_basic else spec.num_groups), stage)
    kernels = spec.temporal_kernels(stage)
    modules: dict[str, nn.Module] = {}
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
            pool_stride=octave.pool_stride and dim_in.low > 0,
            inplace_relu=spec.inplace_relu,
            bn_eps=spec.bn_eps,
            bn_momentum=spec.bn_momentum,
        )
        modules[f"res{i}"] = ResBlock(block, spec.transform)
        if i in spec.non_local.blocks[stage - 2]:
            modules[f"nonlocal{i}"] = _non_local(spec, stage, dim_out)
        dim_in = dim_out
    return modules, dim_out


def _non_local(spec: ResNetSpec, stage: int, channels: Channels) -> NonLocal3d:
    return NonLocal3d(
        channels,
        spec.non_local.instantiation,
        spec.non_local.pools[stage - 2],
        spec.non_local.groups[stage - 2],
        spec.octave.nonlocal_mode,
        spec.bn_eps,
        spec.bn_momentum,
    )
