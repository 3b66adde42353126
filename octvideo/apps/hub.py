"""Models with weights: from the zoo, from a file, or from a configuration and a checkpoint.

A model made here knows how it is used on a video (``model.view_settings``) and, where its weights
tell, what its classes are called (``model.class_names``).
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from octvideo.apps.identify import alpha_of
from octvideo.apps.views import ViewSettings
from octvideo.config import load_cfg
from octvideo.data.labels import class_names
from octvideo.models import build_model
from octvideo.models import create_model as create_bare_model
from octvideo.models.build import IMAGE_MODELS
from octvideo.utils.errors import UserError
from octvideo.weights import CheckpointError, load_into, read_weights
from octvideo.weights.download import fetch
from octvideo.weights.inflate import is_2d
from octvideo.weights.load import HEAD, Weights
from octvideo.weights.zoo import ZooEntry, list_pretrained, zoo_entry

__all__ = ["create_model", "list_pretrained", "load_trained", "load_zoo"]

logger = logging.getLogger("octvideo")


def create_model(
    name: str,
    num_classes: int | None = None,
    octave_alpha: float | None = None,
    *,
    pretrained: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Builds a model, with random weights or with those of the zoo or a file.

    Args:
        name: one of ``list_models()``, for example "i3d_r50".
        num_classes: width of the last layer; None: that of the weights, or 400 without, of image
            networks 1000. For another number than theirs, the last layer starts from random
            weights, with a warning.
        octave_alpha: share of low-frequency channels in [0, 1); None: that of the zoo's entry, of
            the authors' file for an image network, or 0. An octave network takes the weights of
            the vanilla one (its non-local blocks excepted).
        pretrained: one of ``list_pretrained()``, downloaded at its first use, or the path of a
            checkpoint (octvideo, PySlowFast, Caffe2, PyTorchVideo, the paper authors' MXNet files,
            or a 2D ResNet, which a video network inflates). Of a training with EMA, the average
            of the weights, as a test takes it.
        options: as in ``octvideo.models.create_model``.

    Raises:
        ValueError: an unknown name, option or value.
        UserError: the weights can not be had, or do not fit.
    """
    if octave_alpha is not None:
        options["octave_alpha"] = octave_alpha
    if pretrained is None:
        return create_bare_model(name, num_classes, **options)
    pretrained = str(pretrained)
    if os.path.isfile(pretrained) or os.sep in pretrained:  # not a name of the zoo
        weights, known = read_weights(pretrained, average=True), None
        names = weights.class_names
    else:
        known = zoo_entry(pretrained)
        weights = _weights_of(known)
        names = class_names(known.class_names) if known.class_names else None
        if known.model == name:
            options = {**known.options, **options}
    inflate, theirs = is_2d(weights.state) and name not in IMAGE_MODELS, _num_classes(weights)
    if num_classes is None:
        num_classes = 400 if inflate or not theirs else theirs
    of_file = known is None and octave_alpha is None and name in IMAGE_MODELS
    if of_file and (alpha := alpha_of(weights, name, **options)):
        logger.info("%s is of an octave network: octave_alpha=%g", weights.path, alpha)
        options["octave_alpha"] = alpha
    model = create_bare_model(name, num_classes, **options)
    is_new = inflate or num_classes != theirs
    logger.info("%s", load_into(model, weights, finetune=is_new, inflate=inflate))
    if known and not inflate:
        model.view_settings = ViewSettings.of_entry(known)
    if names and len(names) == theirs and not is_new:
        model.class_names = names
    return model


def load_zoo(name: str) -> nn.Module:
    """A model of the zoo, as it was published.

    Raises:
        UserError: no such name, no weights for it, or they can not be had or used so.
    """
    entry = zoo_entry(name)
    if entry.inflate:
        raise UserError(
            f"{name} is a network of pictures, for a training to start from: it knows no classes "
            "of videos"
        )
    return create_model(entry.model, pretrained=name)


def load_trained(
    cfg_path: str | Path, checkpoint: str | Path, opts: Sequence[str] = ()
) -> nn.Module:
    """The model of a configuration with the weights of a checkpoint (of any known kind).

    With EMA.ENABLE, the average of the weights where the file has one, as a test takes it.

    Raises:
        UserError: the configuration is wrong, or the checkpoint can not be read or does not fit.
    """
    cfg = load_cfg(cfg_path, opts)
    weights = read_weights(checkpoint, average=cfg.EMA.ENABLE)
    model = build_model(cfg)
    load_into(model, weights)
    model.view_settings = ViewSettings.of_cfg(cfg)
    if weights.class_names:
        model.class_names = weights.class_names
    return model


def _weights_of(entry: ZooEntry) -> Weights:
    if not entry.address:
        raise UserError(
            f"{entry.name} has no weights yet: train it with configs/{entry.config}.yaml, or "
            f"choose one of {', '.join(list_pretrained())}"
        )
    path = fetch(entry.address, entry.sha256)
    try:
        return read_weights(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. It came from {entry.address}: delete it to download it again"
        ) from error


def _num_classes(weights: Weights) -> int | None:
    bias = weights.state.get(f"{HEAD}bias")
    return None if bias is None else len(bias)
