"""The network that a configuration describes."""

from dataclasses import replace
from typing import Any, TypeVar

from fvcore.common.config import CfgNode

from octvideo.layers import synchronize_batch_norm
from octvideo.models.build import IMAGE_MODELS, Spec, build
from octvideo.models.classifier import Network
from octvideo.models.external import ExternalSpec
from octvideo.models.image import ImageSpec
from octvideo.models.record import KEYS, OCTAVE_OPTIONS
from octvideo.models.resnet2d import ResNet2dSpec
from octvideo.models.slowfast import SlowFastSpec
from octvideo.models.spec import TIME_ON, NonLocalPlacement, OctavePlacement, ResNetSpec, VideoSpec
from octvideo.models.x3d import X3DSpec
from octvideo.utils.errors import UserError

T = TypeVar("T")

# Fields that not every image network has, and their keys.
_NOT_IN_ALL = {
    "zero_init_final_bn": "RESNET.ZERO_INIT_FINAL_BN",
    "act_checkpoint": "MODEL.ACT_CHECKPOINT",
}


def build_model(cfg: CfgNode) -> Network:
    """Builds the model of a configuration, on the CPU, with random weights.

    Raises:
        UserError: the keys of MODEL, RESNET and OCTAVE do not make a network.
    """
    try:
        model = build(spec_of(cfg))
    except ValueError as error:
        raise UserError(f"the model of the configuration cannot be built: {error}") from error
    if cfg.BN.NORM_TYPE == "sync_batchnorm":
        synchronize_batch_norm(model)
    return model


def spec_of(cfg: CfgNode) -> Spec:
    """Returns the specification of the model of a configuration.

    Raises:
        ValueError: the keys of MODEL, RESNET and OCTAVE do not make a network.
    """
    if cfg.MODEL.ARCH == "external":
        return _external_spec(cfg)
    return _image_spec(cfg) if cfg.MODEL.ARCH == "2d" else _video_spec(cfg)


def _octave(cfg: CfgNode) -> OctavePlacement:
    if not cfg.OCTAVE.ENABLE:
        return OctavePlacement()
    values: dict[str, Any] = {}
    for option, field in OCTAVE_OPTIONS.items():
        if option not in KEYS:
            continue
        value = cfg.OCTAVE[KEYS[option].removeprefix("OCTAVE.")]
        values[field] = tuple(value) if isinstance(value, list) else value
    return OctavePlacement(**values)


def _external_spec(cfg: CfgNode) -> ExternalSpec:
    """The network of another project that MODEL.MODEL_NAME names."""
    return ExternalSpec(
        name=cfg.MODEL.MODEL_NAME,
        num_classes=cfg.MODEL.NUM_CLASSES,
        octave=_octave(cfg),
        options=tuple(cfg.MODEL.OPTIONS),
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        crop_size=cfg.DATA.TRAIN_CROP_SIZE,
        input_channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
        fc_init_std=cfg.MODEL.FC_INIT_STD,
        head_activation=cfg.MODEL.HEAD_ACT,
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


def _video_spec(cfg: CfgNode) -> VideoSpec:
    arch = cfg.MODEL.ARCH
    values = {
        "arch": arch,
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "octave": _octave(cfg),
        "num_frames": cfg.DATA.NUM_FRAMES,
        "sampling_rate": cfg.DATA.SAMPLING_RATE,
        "crop_size": cfg.DATA.TRAIN_CROP_SIZE,
        "input_channels": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "num_groups": cfg.RESNET.NUM_GROUPS,
        "spatial_dilations": _of_pathway(cfg.RESNET.SPATIAL_DILATIONS, 0),
        "stride_1x1": cfg.RESNET.STRIDE_1X1 and arch != "slowfast",  # as PySlowFast
        "inplace_relu": cfg.RESNET.INPLACE_RELU,
        "zero_init_final_bn": cfg.RESNET.ZERO_INIT_FINAL_BN,
        "zero_init_final_conv": cfg.RESNET.ZERO_INIT_FINAL_CONV,
        "bn_eps": cfg.BN.EPSILON,
        "bn_momentum": cfg.BN.MOMENTUM,
        "dropout_rate": cfg.MODEL.DROPOUT_RATE,
        "fc_init_std": cfg.MODEL.FC_INIT_STD,
        "head_activation": cfg.MODEL.HEAD_ACT,
        "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
    }
    if arch == "x3d":
        return X3DSpec(**values, **_x3d_options(cfg))
    if arch == "slowfast":
        return SlowFastSpec(**values, **_resnet_options(cfg), **_slowfast_options(cfg))
    return ResNetSpec(**values, **_resnet_options(cfg))


def _resnet_options(cfg: CfgNode) -> dict[str, Any]:
    """The fields that ``ResNetSpec`` adds."""
    return {
        "depth": cfg.RESNET.DEPTH,
        "non_local": _non_local(cfg, 0),
        "transform": cfg.RESNET.TRANS_FUNC,
        "width_per_group": cfg.RESNET.WIDTH_PER_GROUP,
        "expansion": cfg.RESNET.EXPANSION,
        "spatial_strides": _of_pathway(cfg.RESNET.SPATIAL_STRIDES, 0),
        "num_block_temp_kernel": None
        if cfg.MODEL.ARCH in TIME_ON  # where all blocks have one
        else _of_pathway(cfg.RESNET.NUM_BLOCK_TEMP_KERNEL, 0),
    }


def _x3d_options(cfg: CfgNode) -> dict[str, Any]:
    """The fields that ``X3DSpec`` adds."""
    return {
        "width_factor": cfg.X3D.WIDTH_FACTOR,
        "depth_factor": cfg.X3D.DEPTH_FACTOR,
        "bottleneck_factor": cfg.X3D.BOTTLENECK_FACTOR,
        "dim_c1": cfg.X3D.DIM_C1,
        "dim_c5": cfg.X3D.DIM_C5,
        "scale_res2": cfg.X3D.SCALE_RES2,
        "bn_lin5": cfg.X3D.BN_LIN5,
        "channelwise": cfg.X3D.CHANNELWISE_3x3x3,
        "pytorchvideo": cfg.X3D.PYTORCHVIDEO,
    }


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


def _of_pathway(stages: list[list[T]], pathway: int) -> tuple[T, ...]:
    """The entries of a pathway in a list of stages; a single one stands for both pathways."""
    return tuple(entries[min(pathway, len(entries) - 1)] for entries in stages)
