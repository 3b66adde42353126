"""Says what network the weights of a file were trained as, from its records or its layers."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.config import cfg_of_checkpoint
from octvideo.models.build import IMAGE_MODELS, Spec, build, named_spec, with_options
from octvideo.models.from_cfg import spec_of
from octvideo.models.image import ImageSpec
from octvideo.models.x3d import X3DSpec
from octvideo.weights.mismatch import compare
from octvideo.weights.read import Weights

# What a paper's alpha may be; each network here is built to be sure of it.
_ALPHAS = sorted({k / n for n in (16, 40) for k in range(1, n)})


def trained_spec(weights: Weights, wanted: Spec) -> Spec | None:
    """Returns what the weights were trained as, or None where nothing in the file says it.

    Files of octvideo have a record of it; older ones and those of PySlowFast the configuration;
    the zoo knows its own. The paper authors' files have neither, but their layers say which
    channels are low: then it is ``wanted`` with the alpha of the file.
    """
    if weights.spec is not None:
        return weights.spec
    if weights.entry is not None and not weights.entry.inflate:
        entry = weights.entry
        return with_options(named_spec(entry.model), entry.num_classes, **entry.options)
    if weights.low_channels is not None and isinstance(wanted, ImageSpec):
        alpha = 0.0
        if weights.low_channels and low_channels_of(_skeleton(wanted)) == weights.low_channels:
            return wanted
        if weights.low_channels:
            alpha = alpha_of(weights, wanted) or _share(weights)
        return with_options(wanted, octave_alpha=alpha)
    if weights.cfg is None and weights.kind == "pytorchvideo" and isinstance(wanted, X3DSpec):
        return replace(wanted, pytorchvideo=True)
    return spec_of_text(weights.cfg)


def spec_of_text(text: str | None) -> Spec | None:
    """Returns the specification of a checkpoint's configuration; None if it is of none of ours."""
    cfg = cfg_of_checkpoint(text)
    try:
        return None if cfg is None else spec_of(cfg)
    except (ValueError, TypeError, LookupError):  # lists of other lengths, of other projects
        return None


def name_of_layers(weights: Weights) -> str | None:
    """Returns the name of the image network that has these parameters; None if there is none."""
    if any(value.ndim == 5 for value in weights.state.values()):
        return None  # kernels of videos
    num_classes = len(weights.state.get("head.projection.bias", [0]))
    names = (n for n in IMAGE_MODELS if not compare(weights.state, _shapes_of(n, num_classes)))
    return next(names, None)


def spec_of_layers(weights: Weights) -> Spec | None:
    """Returns the image network, with its alpha, that the layers of an MXNet file are of.

    None where they are of none that is known.
    """
    name = name_of_layers(weights)
    if name is None or (alpha := alpha_of(weights, IMAGE_MODELS[name])) is None:
        return None
    return with_options(IMAGE_MODELS[name], octave_alpha=alpha)


@cache
def _shapes_of(name: str, num_classes: int) -> dict[str, torch.Size]:
    state = _skeleton(with_options(IMAGE_MODELS[name], num_classes)).state_dict()
    return {key: value.shape for key, value in state.items()}


def alpha_of(weights: Weights, spec: Spec) -> float | None:
    """Returns the alpha that gives a network the low channels of a file; None if none does."""
    lows = weights.low_channels
    if not lows:
        return None if lows is None else 0.0
    counts = [(len(weights.state[key]), low) for key, low in lows.items() if key in weights.state]

    def fits(alpha: float) -> int:
        return sum(int(alpha * count) == low for count, low in counts)

    for alpha in sorted(_ALPHAS, key=fits, reverse=True)[:3]:
        if low_channels_of(_skeleton(with_options(spec, octave_alpha=alpha))) == lows:
            return alpha
    return None


def low_channels_of(model: nn.Module) -> Mapping[str, int]:
    """Returns a model's ``Weights.low_channels``: those of each batch norm that has some."""
    return {
        f"{name}.running_mean": channels.low
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (channels := getattr(module, "channels", None))
        if channels.low
    }


def _share(weights: Weights) -> float:
    """Returns the share of low channels in the widest layer that has some, of a file of ours."""
    lows = weights.low_channels or {}
    widths = {key: len(weights.state[key]) for key in lows if key in weights.state}
    widest = max(widths, key=lambda key: widths[key])
    return lows[widest] / widths[widest]


def _skeleton(spec: Spec) -> nn.Module:
    with torch.device("meta"):
        return build(spec)
