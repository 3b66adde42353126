"""Models by name and from a configuration."""

from dataclasses import fields
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.models.video_resnet import OctavePlacement, ResNetSpec, VideoResNet
from octvideo.utils.errors import UserError

_VARIANTS: dict[str, dict[str, Any]] = {
    "r18": {"depth": 18, "transform": "basic_transform", "expansion": 1},
    "r50": {"depth": 50},
    "r101": {"depth": 101},
}
_MODELS: dict[str, dict[str, Any]] = {
    f"{arch}_{name}": {"arch": arch, **variant}
    for arch in ("c2d", "i3d")
    for name, variant in _VARIANTS.items()
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
    **options: Any,
) -> VideoResNet:
    """Builds a model with random weights.

    Args:
        name: one of ``list_models()``, for example "i3d_r50".
        num_classes: width of the last layer.
        octave_alpha: share of low-frequency channels in [0, 1); 0 is the vanilla network.
        octave_stages: which of res2..res5 are octave.
        channel_divisor: the low channels are rounded to a multiple of it.
        options: further fields of ``octvideo.models.ResNetSpec`` (num_frames, crop_size,
            width_per_group, dropout_rate, ...).

    Raises:
        ValueError: an unknown name, option or value; the message lists what is known.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(list_models())}")
    known = {field.name for field in fields(ResNetSpec)} - {"octave"}
    if unknown := set(options) - known:
        raise ValueError(
            f"create_model has no option {', '.join(sorted(unknown))}; "
            f"known: {', '.join(sorted(known))}"
        )
    octave = OctavePlacement(octave_alpha, tuple(octave_stages), channel_divisor)
    return VideoResNet(
        ResNetSpec(num_classes=num_classes, octave=octave, **{**_MODELS[name], **options})
    )


def build_model(cfg: CfgNode) -> VideoResNet:
    """Builds the model of a configuration, on the CPU, with random weights.

    Raises:
        UserError: the keys of MODEL, RESNET and OCTAVE do not make a network.
    """
    try:
        return VideoResNet(_resnet_spec(cfg))
    except ValueError as error:
        raise UserError(f"the model of the configuration can not be built: {error}") from error


def _resnet_spec(cfg: CfgNode) -> ResNetSpec:
    octave = OctavePlacement()
    if cfg.OCTAVE.ENABLE:
        octave = OctavePlacement(
            cfg.OCTAVE.ALPHA, tuple(cfg.OCTAVE.STAGES), cfg.OCTAVE.CHANNEL_DIVISOR
        )
    return ResNetSpec(
        arch=cfg.MODEL.ARCH,
        depth=cfg.RESNET.DEPTH,
        num_classes=cfg.MODEL.NUM_CLASSES,
        octave=octave,
        transform=cfg.RESNET.TRANS_FUNC,
        num_frames=cfg.DATA.NUM_FRAMES,
        crop_size=cfg.DATA.TRAIN_CROP_SIZE,
        input_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        width_per_group=cfg.RESNET.WIDTH_PER_GROUP,
        expansion=cfg.RESNET.EXPANSION,
        num_groups=cfg.RESNET.NUM_GROUPS,
        spatial_strides=_first_pathway(cfg.RESNET.SPATIAL_STRIDES),
        spatial_dilations=_first_pathway(cfg.RESNET.SPATIAL_DILATIONS),
        num_block_temp_kernel=_first_pathway(cfg.RESNET.NUM_BLOCK_TEMP_KERNEL),
        stride_1x1=cfg.RESNET.STRIDE_1X1,
        inplace_relu=cfg.RESNET.INPLACE_RELU,
        zero_init_final_bn=cfg.RESNET.ZERO_INIT_FINAL_BN,
        bn_eps=cfg.BN.EPSILON,
        bn_momentum=cfg.BN.MOMENTUM,
        dropout_rate=cfg.MODEL.DROPOUT_RATE,
        fc_init_std=cfg.MODEL.FC_INIT_STD,
        head_activation=cfg.MODEL.HEAD_ACT,
    )


def _first_pathway(stages: list[list[int]]) -> tuple[int, ...]:
    return tuple(pathways[0] for pathways in stages)
