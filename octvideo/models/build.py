"""Models by name and from a configuration."""

from dataclasses import fields, replace
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from octvideo.layers import synchronize_batch_norm
from octvideo.layers.octave_ablation import PAPER, Ablation
from octvideo.models.densenet import DENSENETS, DenseNet, DenseNetSpec
from octvideo.models.image import ImageSpec
from octvideo.models.mobilenet import MOBILENETS, MobileNet, MobileNetSpec
from octvideo.models.resnet2d import RESNETS_2D, ResNet2d, ResNet2dSpec
from octvideo.models.slowfast import SlowFast, SlowFastSpec
from octvideo.models.spec import NL5, NonLocalPlacement, OctavePlacement, ResNetSpec
from octvideo.models.video_resnet import VideoResNet
from octvideo.utils.errors import UserError

_NETWORKS: dict[type, Any] = {  # what each specification is of
    ResNetSpec: VideoResNet,
    SlowFastSpec: SlowFast,
    ResNet2dSpec: ResNet2d,
    DenseNetSpec: DenseNet,
    MobileNetSpec: MobileNet,
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "r18": {"depth": 18, "transform": "basic_transform", "expansion": 1},
    "r50": {"depth": 50},
    "r101": {"depth": 101},
}
# As in the recipes, a non-local block starts as the identity.
_NLN: dict[str, Any] = {
    "depth": 50,
    "non_local": NonLocalPlacement(NL5),
    "zero_init_final_bn": True,
}
_SLOW_4X16: dict[str, Any] = {"arch": "slow", "num_frames": 4, "sampling_rate": 16}
_SLOWFAST_8X8: dict[str, Any] = {"frame_ratio": 4, "fusion_kernel": 7}
# The clip of each (num_frames, sampling_rate) is that of its specification, 8 x 8 or 32 x 2.
_VIDEO_MODELS: dict[str, ResNetSpec] = {
    **{
        f"{arch}_{name}": ResNetSpec(arch=arch, **variant)
        for arch in ("c2d", "i3d", "slow")
        for name, variant in _VARIANTS.items()
    },
    "slow_c2d_r50": ResNetSpec(arch="slow_c2d"),
    "slow_i3d_r50": ResNetSpec(arch="slow_i3d"),
    "c2d_nln_r50": ResNetSpec(arch="c2d", **_NLN),
    "i3d_nln_r50": ResNetSpec(arch="i3d", **_NLN),
    "slow_4x16_r50": ResNetSpec(depth=50, **_SLOW_4X16),
    "slowfast_4x16_r50": SlowFastSpec(depth=50),
    "slowfast_r50": SlowFastSpec(depth=50, **_SLOWFAST_8X8),
    "slowfast_r101": SlowFastSpec(depth=101, **{**_SLOWFAST_8X8, "fusion_kernel": 5}),
    "slowfast_nln_r50": SlowFastSpec(
        **{**_SLOWFAST_8X8, "fusion_kernel": 5},
        **{**_NLN, "non_local": NonLocalPlacement(NL5, "dot_product")},
    ),
}
IMAGE_MODELS: dict[str, ImageSpec] = {**RESNETS_2D, **DENSENETS, **MOBILENETS}
_MODELS: dict[str, ResNetSpec | ImageSpec] = {**_VIDEO_MODELS, **IMAGE_MODELS}
# Fields that not every image network has, and their keys.
_NOT_IN_ALL = {
    "zero_init_final_bn": "RESNET.ZERO_INIT_FINAL_BN",
    "act_checkpoint": "MODEL.ACT_CHECKPOINT",
}


def list_models() -> list[str]:
    """Names that ``create_model`` knows, sorted."""
    return sorted(_MODELS)


def create_model(
    name: str,
    num_classes: int | None = None,
    octave_alpha: float = 0.0,
    octave_stages: tuple[int, ...] | None = None,
    channel_divisor: int = 1,
    octave_pathways: tuple[int, ...] = (0,),
    nonlocal_mode: str = "cross",
    pool_stride: bool = False,
    ablation: Ablation = PAPER,
    **options: Any,
) -> nn.Module:
    """Builds a model with random weights.

    Args:
        name: one of ``list_models()``, for example "i3d_r50" or "resnet50_v1b".
        num_classes: width of the last layer; None: 400 (Kinetics), of image networks 1000.
        octave_alpha: share of low-frequency channels in [0, 1); 0 is the vanilla network.
        octave_stages: which of res2..res5 are octave; None: all, of image networks (2, 3, 4).
        channel_divisor: the low channels are rounded to a multiple of it.
        octave_pathways: which pathways are octave; 0 is the slow one of SlowFast.
        nonlocal_mode: what a non-local block makes of an octave value, "cross" or "high".
        pool_stride: of a video network that is inflated from an octave image network, whose plain
            strided convolutions behind the octave pool (see ``OctavePlacement``).
        ablation: a variant of the operator, for studies, such as ``Ablation(downsample="max")``.
        options: further fields of the model's specification (``type(model.spec)``: num_frames,
            crop_size, dropout_rate, ...).

    ``model.spec`` has them all; ``num_frames`` and ``sampling_rate`` are the clip to give it, of
    one frame for an image network.

    Raises:
        ValueError: an unknown name, option or value; the message lists what is known.
    """
    spec = named_spec(name)
    known = {field.name for field in fields(spec)} - {"octave"}
    if unknown := set(options) - known:
        raise ValueError(
            f"create_model has no option {', '.join(sorted(unknown))} for {name}; "
            f"known: {', '.join(sorted(known))}"
        )
    if num_classes is not None:
        options["num_classes"] = num_classes
    octave = OctavePlacement(
        octave_alpha,
        spec.octave.stages if octave_stages is None else tuple(octave_stages),
        channel_divisor,
        tuple(octave_pathways),
        nonlocal_mode,
        pool_stride,
        ablation,
    )
    return _build(replace(spec, octave=octave, **options))


def build_model(cfg: CfgNode) -> nn.Module:
    """Builds the model of a configuration, on the CPU, with random weights.

    Raises:
        UserError: the keys of MODEL, RESNET and OCTAVE do not make a network.
    """
    try:
        model = _build(spec_of(cfg))
    except ValueError as error:
        raise UserError(f"the model of the configuration can not be built: {error}") from error
    if cfg.BN.NORM_TYPE == "sync_batchnorm":
        synchronize_batch_norm(model)
    return model


def spec_of(cfg: CfgNode) -> ResNetSpec | ImageSpec:
    """The specification of the model of a configuration.

    Raises:
        ValueError: the keys of MODEL, RESNET and OCTAVE do not make a network.
    """
    return _image_spec(cfg) if cfg.MODEL.ARCH == "2d" else _video_spec(cfg)


def named_spec(name: str) -> ResNetSpec | ImageSpec:
    """The specification that ``create_model`` starts from.

    Raises:
        ValueError: an unknown name; the message lists what is known.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(list_models())}")
    return _MODELS[name]


def _build(spec: ResNetSpec | ImageSpec) -> nn.Module:
    return _NETWORKS[type(spec)](spec)


def _octave(cfg: CfgNode) -> OctavePlacement:
    if not cfg.OCTAVE.ENABLE:
        return OctavePlacement()
    return OctavePlacement(
        alpha=cfg.OCTAVE.ALPHA,
        stages=tuple(cfg.OCTAVE.STAGES),
        channel_divisor=cfg.OCTAVE.CHANNEL_DIVISOR,
        pathways=tuple(cfg.OCTAVE.PATHWAYS),
        nonlocal_mode=cfg.OCTAVE.NONLOCAL_MODE,
        ablation=Ablation(cfg.OCTAVE.DOWNSAMPLE, cfg.OCTAVE.UPSAMPLE_FIRST, cfg.OCTAVE.PATHS),
        pool_stride=cfg.OCTAVE.POOL_STRIDE,
    )


def _image_spec(cfg: CfgNode) -> ImageSpec:
    """The network named MODEL.MODEL_NAME, which fixes all but these keys."""
    name = cfg.MODEL.MODEL_NAME
    if name not in IMAGE_MODELS:
        raise ValueError(
            f"MODEL.MODEL_NAME {name!r} is no image network; with MODEL.ARCH 2d set one of "
            f"{', '.join(sorted(IMAGE_MODELS))}"
        )
    values = {
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "octave": _octave(cfg),
        "crop_size": cfg.DATA.TRAIN_CROP_SIZE,
        "input_channels": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "bn_eps": cfg.BN.EPSILON,
        "bn_momentum": cfg.BN.MOMENTUM,
        "dropout_rate": cfg.MODEL.DROPOUT_RATE,
        "fc_init_std": cfg.MODEL.FC_INIT_STD,
        "head_activation": cfg.MODEL.HEAD_ACT,
    }
    spec = IMAGE_MODELS[name]
    width = cfg.RESNET.WIDTH_PER_GROUP
    if isinstance(spec, ResNet2dSpec):
        values["width"] = width
    elif width != 64:
        raise ValueError(f"RESNET.WIDTH_PER_GROUP {width} is for ResNets, and {name} is none")
    for field, key in _NOT_IN_ALL.items():
        section, word = key.split(".")
        if hasattr(spec, field):
            values[field] = cfg[section][word]
        elif cfg[section][word]:
            raise ValueError(f"{key} is True, but {name} does not have it: set {key} False")
    return replace(spec, **values)


def _video_spec(cfg: CfgNode) -> ResNetSpec:
    is_slowfast = cfg.MODEL.ARCH == "slowfast"
    return (SlowFastSpec if is_slowfast else ResNetSpec)(
        arch=cfg.MODEL.ARCH,
        depth=cfg.RESNET.DEPTH,
        num_classes=cfg.MODEL.NUM_CLASSES,
        octave=_octave(cfg),
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
        stride_1x1=cfg.RESNET.STRIDE_1X1 and not is_slowfast,  # as PySlowFast
        inplace_relu=cfg.RESNET.INPLACE_RELU,
        zero_init_final_bn=cfg.RESNET.ZERO_INIT_FINAL_BN,
        zero_init_final_conv=cfg.RESNET.ZERO_INIT_FINAL_CONV,
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
    """The entries of a pathway in a list of stages; a single one stands for both pathways."""
    return tuple(entries[min(pathway, len(entries) - 1)] for entries in stages)
