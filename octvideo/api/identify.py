"""Which network a checkpoint is of, by its configuration or, where it has none, its layers.

The shapes of the parameters do not tell: an octave network has those of the vanilla one.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import torch
from fvcore.common.config import CfgNode

from octvideo.models import create_model
from octvideo.models.build import IMAGE_MODELS, named_spec, spec_of
from octvideo.models.image import ImageSpec
from octvideo.models.resnet2d import ResNet2dSpec
from octvideo.models.spec import OctavePlacement, ResNetSpec
from octvideo.weights import Weights, compare, low_channels_of
from octvideo.weights.load import HEAD

# What a paper's alpha may be; each network here is built to be sure of it.
_ALPHAS = sorted({k / n for n in (16, 40) for k in range(1, n)})


def network_of(weights: Weights) -> str | None:
    """The name of the image network whose parameters these are; None: of none."""
    if any(value.ndim == 5 for value in weights.state.values()):
        return None  # kernels of videos
    num_classes = len(weights.state.get(f"{HEAD}bias", [0]))
    for name in IMAGE_MODELS:
        if not compare(weights.state, _shapes_of(name, num_classes)):
            return name
    return None


@cache
def _shapes_of(name: str, num_classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = create_model(name, num_classes)
    return {key: value.shape for key, value in model.state_dict().items()}


def alpha_of(weights: Weights, name: str, **options: Any) -> float | None:
    """The ``octave_alpha`` of a file, with which ``name`` has the file's low channels.

    None: the file does not tell, as one of a vanilla network and most of PyTorch, or no alpha
    gives these channels. ``options``: as of ``create_model``.
    """
    lows = weights.low_channels
    if not lows:
        return None if lows is None else 0.0
    counts = [(len(weights.state[key]), low) for key, low in lows.items() if key in weights.state]

    def fits(alpha: float) -> int:
        return sum(int(alpha * count) == low for count, low in counts)

    for alpha in sorted(_ALPHAS, key=fits, reverse=True)[:3]:
        with torch.device("meta"):
            model = create_model(name, octave_alpha=alpha, **options)
        if low_channels_of(model) == lows:
            return alpha
    return None


# What a name of ``create_model`` stands for, and what its weights do not depend on.
_OF_THE_NAME = {"arch", "depth", "transform", "expansion", "octave", "num_classes"}
_OF_THE_TRAINING = {"act_checkpoint", "inplace_relu", "zero_init_final_bn", "fc_init_std"}
# What may be another in use than in training.
_OF_THE_USE = {"num_frames", "sampling_rate", "crop_size", "dropout_rate", "head_activation"}


def options_of(cfg: CfgNode, name: str) -> dict[str, Any]:
    """What ``create_model(name)`` takes for the network that a checkpoint was trained as.

    ``cfg``: the configuration in the checkpoint, unchecked. {} where its network is not ``name``,
    nor a ResNet of pictures that ``name``, of videos, can be inflated from.
    """
    try:
        spec, named = spec_of(cfg), named_spec(name)
    except (ValueError, TypeError, LookupError):  # lists of other lengths, of other projects
        return {}
    if isinstance(spec, ResNet2dSpec) and isinstance(named, ResNetSpec):
        pools = {"pool_stride": True} if spec.is_octave else {}  # as 2D networks do
        others = {"width_per_group": spec.width, "bn_eps": spec.bn_eps}
        return {**_octave_options(spec.octave), **pools, **others}
    if isinstance(named, ImageSpec):
        is_same = name == cfg.MODEL.MODEL_NAME
    else:
        is_same = type(spec) is type(named) and spec.arch == named.arch
    if not is_same:
        return {}
    left_out = _OF_THE_NAME | _OF_THE_TRAINING
    if isinstance(named, ResNetSpec) and spec.non_local.blocks != named.non_local.blocks:
        left_out = left_out | {"non_local", "fast_non_local"}
    taken = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name not in left_out}
    return {**_octave_options(spec.octave), **taken}


def _octave_options(octave: OctavePlacement) -> dict[str, Any]:
    if not octave.alpha:
        return {"octave_alpha": 0.0}
    return {
        "octave_alpha": octave.alpha,
        "octave_stages": octave.stages,
        "channel_divisor": octave.channel_divisor,
        "octave_pathways": octave.pathways,
        "nonlocal_mode": octave.nonlocal_mode,
        "pool_stride": octave.pool_stride,
        "ablation": octave.ablation,
    }


def contradictions(trained: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Where a network is asked for otherwise than it was trained, in words; "": nowhere."""
    keys = [key for key in asked if key in trained and key not in _OF_THE_USE]
    return ", ".join(
        f"{key}={trained[key]!r}, not {asked[key]!r}" for key in keys if asked[key] != trained[key]
    )
