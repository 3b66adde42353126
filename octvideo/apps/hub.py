"""Models with weights: from the zoo, from a file, or from a configuration and a checkpoint.

A model made here knows how it is used on a video (``model.view_settings``) and, where its weights
tell, what its classes are called (``model.class_names``).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from octvideo.apps.views import ViewSettings
from octvideo.config import load_cfg
from octvideo.data.labels import class_names
from octvideo.models import build_model
from octvideo.models import create_model as create_bare_model
from octvideo.utils.errors import UserError
from octvideo.weights import load_into, read_torch, read_weights
from octvideo.weights.download import fetch
from octvideo.weights.files import file_format
from octvideo.weights.load import HEAD, Weights
from octvideo.weights.zoo import list_pretrained, zoo_entry

__all__ = ["create_model", "list_pretrained", "load_trained", "load_zoo"]

logger = logging.getLogger("octvideo")


def create_model(
    name: str,
    num_classes: int | None = None,
    octave_alpha: float = 0.0,
    *,
    pretrained: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Builds a model, with random weights or with those of the zoo or a file.

    Args:
        name: one of ``list_models()``, for example "i3d_r50".
        num_classes: width of the last layer; None: that of the weights, or 400 without. For
            another number than theirs, the last layer starts from random weights, with a warning.
        octave_alpha: share of low-frequency channels in [0, 1). An octave network takes the
            weights of the vanilla one (its non-local blocks excepted).
        pretrained: one of ``list_pretrained()``, downloaded at its first use, or the path of a
            checkpoint (octvideo, PySlowFast, Caffe2, PyTorchVideo, or a 2D ResNet to inflate).
        options: as in ``octvideo.models.create_model``.

    Raises:
        ValueError: an unknown name, option or value.
        UserError: the weights can not be had, or do not fit.
    """
    if pretrained is None:
        count = 400 if num_classes is None else num_classes
        return create_bare_model(name, count, octave_alpha, **options)
    pretrained = str(pretrained)
    if Path(pretrained).is_file():
        weights, known = read_weights(pretrained), None
        inflate, names = weights.kind == "torchvision", _names_in(weights.path)
    else:
        entry = zoo_entry(pretrained)
        if not entry.address:
            raise UserError(
                f"{entry.name} has no weights yet: train it with configs/{entry.config}.yaml, or "
                f"choose one of {', '.join(list_pretrained())}"
            )
        weights = read_weights(fetch(entry.address, entry.sha256))
        inflate, known = entry.inflate, entry
        names = class_names(entry.class_names) if entry.class_names else None
        if entry.model == name:
            options = {**entry.options, **options}
    theirs = _num_classes(weights)
    count = num_classes or (400 if inflate or not theirs else theirs)
    model = create_bare_model(name, count, octave_alpha, **options)
    logger.info(
        "%s", load_into(model, weights, finetune=inflate or count != theirs, inflate=inflate)
    )
    if known is not None and not inflate:
        model.view_settings = ViewSettings.of_entry(known)
    if names and len(names) == theirs == count and not inflate:
        model.class_names = names
    return model


def load_zoo(name: str) -> nn.Module:
    """A model of the zoo, as it was published.

    Raises:
        UserError: no such name, no weights for it, or they can not be had.
    """
    return create_model(zoo_entry(name).model, pretrained=name)


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
    if names := _names_in(weights.path):
        model.class_names = names
    return model


def _num_classes(weights: Weights) -> int | None:
    bias = weights.state.get(f"{HEAD}bias")
    return None if bias is None else len(bias)


def _names_in(path: Path) -> list[str] | None:
    """The class names that a checkpoint of octvideo carries, if it does."""
    if file_format(path) != "torch":
        return None
    content = read_torch(path)
    names = content.get("class_names") if isinstance(content, dict) else None
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        return list(names)
    return None
