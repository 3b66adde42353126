"""Models by name and from a configuration."""

from dataclasses import fields
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.layers import synchronize_batch_norm
from octvideo.models.slowfast import SlowFast, SlowFastSpec
from octvideo.models.spec import NL5, NonLocalPlacement, OctavePlacement, ResNetSpec
from octvideo.models.video_resnet import VideoResNet
from octvideo.utils.errors import UserError

_VARIANTS: dict[str, dict[str, Any]] = {
    "r18": {"depth": 18, "transform": "basic_transform", "expansion": 1},
    "r50": {"depth": 50},
    "r101": {"depth": 101},
}
_NLN = {"depth": 50, "non_local": NonLocalPlacement(NL5)}
_SLOW_4X16 = {"arch": "slow", "num_frames": 4, "sampling_rate": 16}
_SLOWFAST_8X8 = {"arch": "slowfast", "frame_ratio": 4, "fusion_kernel": 7}
# The clip of each (num_frames, sampling_rate) is that of its specification, 8 x 8 or 32 x 2.
_MODELS: dict[str, dict[str, Any]] = {
    **{
        f"{arch}_{name}": {"arch": arch, **variant}
        for arch in ("c2d", "i3d", "slow")
        for name, variant in _VARIANTS.items()
    },
    "c2d_nln_r50": {"arch": "c2d", **_NLN},
    "i3d_nln_r50": {"arch": "i3d", **_NLN},
    "slow_4x16_r50": {"depth": 50, **_SLOW_4X16},
    "slowfast_4x16_r50": {"arch": "slowfast", "depth": 50},
    "slowfast_r50": {"depth": 50, **_SLOWFAST_8X8},
    "slowfast_r101": {"depth": 101, **_SLOWFAST_8X8, "fusion_kernel": 5},
    "slowfast_nln_r50": {
        **_SLOWFAST_8X8,
        "depth": 50,
        "fusion_kernel": 5,
        "non_local": NonLocalPlacement(NL5, "dot_product"),
    },
}


def list_models() -> list[str]:
    """Names that ``create_model`` knows, sorted."""
    return sorted(_MODELS)


def create_model(
    name: str,
    num_classes: int = 400,
    octave_alpha: float = 0.0,
    octave_stages: tuple[int, ...] = (2, 3, 4, 5),
    channel_divisor: int = 1,
    octave_pathways: tuple[int, ...] = (0,),
    nonlocal_mode: str = "cross",
    **options: Any,
) -> VideoResNet:
    """Builds a model with random weights.

    Args:
        name: one of ``list_models()``, for example "i3d_r50".
        num_classes: width of the last layer.
        octave_alpha: share of low-frequency channels in [0, 1); 0 is the vanilla network.
        octave_stages: which of res2..res5 are octave.
        channel_divisor: the low channels are rounded to a multiple of it.
        octave_pathways: which pathways are octave; 0 is the slow one of SlowFast.
        nonlocal_mode: what a non-local block makes of an octave value, "cross" or "high".
        options: further fields of ``octvideo.models.ResNetSpec`` or, for SlowFast,
            ``SlowFastSpec`` (num_frames, crop_size, width_per_group, dropout_rate, ...).

    ``model.spec`` has them all; ``num_frames`` and ``sampling_rate`` are the clip to give it.

    Raises:
        ValueError: an unknown name, option or value; the message lists what is known.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(list_models())}")
    spec_type = _spec_type(_MODELS[name]["arch"])
    known = {field.name for field in fields(spec_type)} - {"octave"}
    if unknown := set(options) - known:
        raise ValueError(
            f"create_model has no option {', '.join(sorted(unknown))}; "
            f"known: {', '.join(sorted(known))}"
        )
    octave = OctavePlacement(
        octave_alpha, tuple(octave_stages), channel_divisor, tuple(octave_pathways), nonlocal_mode
    )
    return _build(spec_type(num_classes=num_classes, octave=octave, **{**_MODELS[name], **options}))


def build_model(cfg: CfgNode) -> VideoResNet:
    """Builds the model of a configuration, on the CPU, with random weights.

    Raises:
        UserError: the keys of MODEL, RESNET and OCTAVE do not make a network.
    """
    try:
        model = _build(_spec(cfg))
    except ValueError as error:
        raise UserError(f"the model of the configuration can not be built: {error}") from error
    if cfg.BN.NORM_TYPE == "sync_batchnorm":
        synchronize_batch_norm(model)
    return model


def _spec_type(arch: str) -> type[ResNetSpec]:
    return SlowFastSpec if arch == "slowfast" else ResNetSpec


def _build(spec: ResNetSpec) -> VideoResNet:
    return SlowFast(spec) if isinstance(spec, SlowFastSpec) else VideoResNet(spec)


def _spec(cfg: CfgNode) -> ResNetSpec:
    octave = OctavePlacement()
    if cfg.OCTAVE.ENABLE:
        octave = OctavePlacement(
            alpha=cfg.OCTAVE.ALPHA,
            stages=tuple(cfg.OCTAVE.STAGES),
            channel_divisor=cfg.OCTAVE.CHANNEL_DIVISOR,
            pathways=tuple(cfg.OCTAVE.PATHWAYS),
            nonlocal_mode=cfg.OCTAVE.NONLOCAL_MODE,
        )
    is_slowfast = cfg.MODEL.ARCH == "slowfast"
    return _spec_type(cfg.MODEL.ARCH)(
        arch=cfg.MODEL.ARCH,
        depth=cfg.RESNET.DEPTH,
        num_classes=cfg.MODEL.NUM_CLASSES,
        octave=octave,
        non_local=_non_local(cfg, 0),
        transform=cfg.RESNET.TRANS_FUNC,
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        crop_size=cfg.DATA.TRAIN_CROP_SIZE,
        input_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        width_per_group=cfg.RESNET.WIDTH_PER_GROUP,
        expansion=cfg.RESNET.EXPANSION,
        num_groups=cfg.RESNET.NUM_GROUPS,
        spatial_strides=_of_pathway(cfg.RESNET.SPATIAL_STRIDES, 0),
        spatial_dilations=_of_pathway(cfg.RESNET.SPATIAL_DILATIONS, 0),
        num_block_temp_kernel=_of_pathway(cfg.RESNET.NUM_BLOCK_TEMP_KERNEL, 0),
        stride_1x1=cfg.RESNET.STRIDE_1X1,
        inplace_relu=cfg.RESNET.INPLACE_RELU,
        zero_init_final_bn=cfg.RESNET.ZERO_INIT_FINAL_BN,
        bn_eps=cfg.BN.EPSILON,
        bn_momentum=cfg.BN.MOMENTUM,
        dropout_rate=cfg.MODEL.DROPOUT_RATE,
        fc_init_std=cfg.MODEL.FC_INIT_STD,
        head_activation=cfg.MODEL.HEAD_ACT,
        act_checkpoint=cfg.MODEL.ACT_CHECKPOINT,
        **(_slowfast_options(cfg) if is_slowfast else {}),
    )


def _slowfast_options(cfg: CfgNode) -> dict[str, Any]:
    """The fields that ``SlowFastSpec`` adds."""
    return {
        "frame_ratio": cfg.SLOWFAST.ALPHA,
        "beta_inv": cfg.SLOWFAST.BETA_INV,
        "fusion_ratio": cfg.SLOWFAST.FUSION_CONV_CHANNEL_RATIO,
        "fusion_kernel": cfg.SLOWFAST.FUSION_KERNEL_SZ,
        "fast_spatial_dilations": _of_pathway(cfg.RESNET.SPATIAL_DILATIONS, 1),
        "fast_num_block_temp_kernel": _of_pathway(cfg.RESNET.NUM_BLOCK_TEMP_KERNEL, 1),
        "fast_non_local": _non_local(cfg, 1),
    }


def _non_local(cfg: CfgNode, pathway: int) -> NonLocalPlacement:
    blocks, groups, pools = (
        _of_pathway(cfg.NONLOCAL[key], pathway) for key in ("LOCATION", "GROUP", "POOL")
    )
    return NonLocalPlacement(
        blocks=tuple(map(tuple, blocks)),
        instantiation=cfg.NONLOCAL.INSTANTIATION,
        groups=groups,
        pools=tuple(map(tuple, pools)),
    )


def _of_pathway(stages: list[list[Any]], pathway: int) -> tuple[Any, ...]:
    """The entries of a pathway in a list of stages."""
    return tuple(entries[pathway] for entries in stages)
