"""Models with weights: from the zoo, from a file, or from a configuration and a checkpoint.

A model made here knows how it is used on a video (``model.view_settings``) and, where its weights
tell, what its classes are called (``model.class_names``).
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.api.identify import alpha_of, contradictions, options_of
from octvideo.api.views import ViewSettings
from octvideo.config import ConfigError, cfg_of_checkpoint, load_cfg, validate
from octvideo.data.labels import class_names
from octvideo.engine.checkpoint import best_path, list_checkpoints, warn_of_another_network
from octvideo.models import build_model
from octvideo.models import create_model as create_bare_model
from octvideo.models.build import IMAGE_MODELS
from octvideo.utils.errors import UserError
from octvideo.weights import CheckpointError, Weights, check_fit, load_into, read_weights
from octvideo.weights.download import is_address
from octvideo.weights.load import HEAD
from octvideo.weights.zoo import ZooEntry, list_pretrained, zoo_entries, zoo_entry

__all__ = ["create_model", "list_pretrained", "load", "load_trained", "load_zoo"]

logger = logging.getLogger("octvideo")


class NoConfiguration(UserError):  # noqa: N818 - the base says it
    """The checkpoint does not say what network its weights are of."""


def create_model(
    name: str,
    num_classes: int | None = None,
    octave_alpha: float | None = None,
    *,
    pretrained: str | Path | None = None,
    clear_names: Sequence[str] = (),
    **options: Any,
) -> nn.Module:
    """Builds a model, with random weights or with those of the zoo or a file.

    Args:
        name: one of ``list_models()``, for example "i3d_r50".
        num_classes: width of the last layer; None: that of the weights, or 400 without, of image
            networks 1000. For another number than theirs, the last layer starts from random
            weights, with a warning.
        octave_alpha: share of low-frequency channels in [0, 1); None: that of the weights, as the
            zoo's entry, the configuration in a checkpoint or the authors' file tells it, or 0. An
            octave network takes the weights of the vanilla one (its non-local blocks excepted),
            to be trained: a warning says so, as with any other contradiction.
        pretrained: one of ``list_pretrained()``, downloaded at its first use, or the path of a
            checkpoint (octvideo, PySlowFast, Caffe2, PyTorchVideo, the paper authors' MXNet files,
            or a 2D ResNet, which a video network inflates). Of a training with EMA, the average
            of the weights, as a test takes it.
        clear_names: texts that are removed, each at its first occurrence, from the names in the
            file. The usual prefixes ("module.", "backbone.") need none: they are recognised.
        options: as in ``octvideo.models.create_model``; those that are not given are as in the
            configuration of the checkpoint.

    Raises:
        ValueError: an unknown name, option or value.
        UserError: the weights can not be had, or do not fit.
    """
    if octave_alpha is not None:
        options["octave_alpha"] = octave_alpha
    if name in {entry.name for entry in zoo_entries()}:
        raise UserError(
            f"{name} names weights of the zoo, not a network: "
            f"create_model({zoo_entry(name).model!r}, pretrained={name!r})"
        )
    if pretrained is None:
        return create_bare_model(name, num_classes, **options)
    pretrained = str(pretrained)
    is_file = os.path.isfile(pretrained) or os.sep in pretrained  # else a name of the zoo
    known = None if is_file else zoo_entry(pretrained)
    weights = read_weights(pretrained, clear_names=clear_names, average=True)
    names = weights.class_names
    if known is not None:
        names = class_names(known.class_names) if known.class_names else None
    cfg = None if known else cfg_of_checkpoint(weights.cfg)
    inflate, theirs = weights.is_2d and name not in IMAGE_MODELS, _num_classes(weights)
    if num_classes is None:
        num_classes = 400 if inflate or not theirs else theirs
    trained = _trained_options(weights, name, known, cfg, options)
    is_new = inflate or num_classes != theirs
    if cfg is not None:  # what it says must be the network of these weights
        with torch.device("meta"):
            described = create_bare_model(name, num_classes, **{**trained, **options})
        check_fit(described, weights, finetune=is_new, inflate=inflate)
    model = create_bare_model(name, num_classes, **{**trained, **options})
    logger.info("%s", load_into(model, weights, finetune=is_new, inflate=inflate))
    if not inflate:
        _set_views(model, name, known, cfg, options)
    if names and len(names) == theirs and not is_new:
        model.class_names = names
    return model


def _trained_options(
    weights: Weights,
    name: str,
    known: ZooEntry | None,
    cfg: CfgNode | None,
    asked: dict[str, Any],
) -> dict[str, Any]:
    """What the network of the weights was trained with; a warning where ``asked`` contradicts."""
    trained: dict[str, Any] = {}
    if known is not None and known.model == name:
        trained = {"octave_alpha": 0.0, **known.options}
    elif cfg is not None:
        trained = options_of(cfg, name)
    elif known is None and name in IMAGE_MODELS and "octave_alpha" not in asked:
        alpha = alpha_of(weights, name, **asked)
        trained = {} if alpha is None else {"octave_alpha": alpha}
    if alpha := trained.get("octave_alpha", 0):
        logger.info("%s is of an octave network: octave_alpha=%g", weights.path, alpha)
    if weights.low_channels is None and (text := contradictions(trained, asked)):
        logger.warning(
            "%s was trained with %s: another network. Weights that fit compute something else in "
            "it until they are trained",
            weights.path,
            text,
        )
    return trained


def _set_views(
    model: nn.Module,
    name: str,
    known: ZooEntry | None,
    cfg: CfgNode | None,
    asked: dict[str, Any],
) -> None:
    """How the network is used, where its weights tell, or their authors."""
    if known is None and cfg is None and name in IMAGE_MODELS:
        known = next((e for e in zoo_entries() if e.model == name and e.is_image_network), None)
    if known is not None:
        model.view_settings = ViewSettings.of_entry(known)
    elif cfg is not None:
        settings = replace(
            ViewSettings.of_cfg(cfg),
            backend=ViewSettings.backend,  # the machine that trained it had another, maybe
            precision=ViewSettings.precision,
        )
        clip = {k: asked[k] for k in ("num_frames", "sampling_rate") if k in asked}
        model.view_settings = _checked(replace(settings, **clip))


def _checked(settings: ViewSettings) -> ViewSettings:
    """``settings`` that came with a file, which must not be able to ask for all memory.

    Raises:
        UserError: a value is far beyond what any test uses.
    """
    sizes = {
        "TEST.NUM_ENSEMBLE_VIEWS": (settings.num_clips, 1000),
        "DATA.NUM_FRAMES": (settings.num_frames, 1024),
        "DATA.TEST_CROP_SIZE": (settings.crop_size, 4096),
        "DATA.TRAIN_JITTER_SCALES": (settings.short_side or settings.crop_size, 4096),
    }
    for key, (value, limit) in sizes.items():
        if not 0 < value <= limit:
            raise UserError(
                f"the configuration in the checkpoint has {key} {value}, but only 1 to {limit} is "
                "accepted from a file: give a configuration of your own (--cfg FILE)"
            )
    return settings


def load(source: str | os.PathLike[str], cfg: str | Path | None = None) -> nn.Module:
    """Loads a trained model, in evaluation mode and on the CPU, with all that `predict` needs.

    Args:
        source: the folder of a training run (its OUTPUT_DIR), a checkpoint file, the address of one
            (http, https), or a name of ``list_pretrained()``. Of a run, the checkpoint with the
            best validation error is loaded, or the newest one where there was no validation.
        cfg: a configuration file, for a checkpoint that holds none.

    Raises:
        UserError: there is no such run, file or name, or its weights cannot be loaded.
    """
    if is_address(source):
        return load_trained(cfg, source).eval()
    found = checkpoints_of(source)
    if not found:
        return load_zoo(os.fspath(source)).eval()
    beside = Path(source).expanduser() / "config.yaml"
    failures: list[CheckpointError] = []
    for path in found:
        try:
            return load_trained(cfg, path).eval()
        except NoConfiguration:
            if not beside.is_file():
                raise
            return load_trained(beside, path).eval()
        except CheckpointError as error:
            if path != found[-1]:
                logger.warning("%s. Trying the next checkpoint of the run", error)
            failures.append(error)
    raise failures[0]


def checkpoints_of(source: str | os.PathLike[str]) -> list[Path]:
    """The local files that `load` tries, in its order; none for an address or a name of the zoo.

    Raises:
        UserError: there is no such file, or the folder holds no checkpoints.
    """
    if is_address(source):
        return []
    path = Path(source).expanduser()
    if path.is_dir():
        folders = [folder for folder in (path / "checkpoints", path) if folder.is_dir()]
        for folder in folders:
            best = [file for file in (best_path(folder),) if file.is_file()]
            if found := [*best, *reversed(list_checkpoints(folder))]:
                return found
        raise UserError(f"{path} holds no checkpoints: give the OUTPUT_DIR of a training run")
    text = os.fspath(source)
    if path.is_file():
        return [path]
    if os.sep in text or path.suffix in (".pyth", ".pkl", ".pth", ".pt"):
        raise UserError(f"{text} is neither a checkpoint nor the folder of a training run")
    return []


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
    cfg_path: str | Path | None, checkpoint: str | Path, opts: Sequence[str] = ()
) -> nn.Module:
    """The model of a configuration with the weights of a checkpoint (of any known kind).

    With EMA.ENABLE, the average of the weights where the file has one, as a test takes it.
    ``cfg_path`` None: the configuration in the checkpoint, as those of octvideo have one.

    Raises:
        UserError: the configuration is wrong, or the checkpoint can not be read or does not fit.
    """
    cfg = None if cfg_path is None else load_cfg(cfg_path, opts)
    average = cfg is None or cfg.EMA.ENABLE
    names = () if cfg is None else cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN
    weights = read_weights(checkpoint, clear_names=names, average=average)
    if cfg is None:
        cfg = cfg_of_checkpoint(weights.cfg, opts)
        if cfg is not None and (names := cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN):
            weights = read_weights(checkpoint, clear_names=names, average=average)
    if cfg is None:
        raise NoConfiguration(
            f"{checkpoint} holds weights, but no configuration: give it, too, as --cfg FILE "
            "(in Python, octvideo.load(checkpoint, cfg=FILE))"
        )
    if cfg_path is None and (problems := validate(cfg)):  # it may be of another project
        raise ConfigError([f"the configuration in {checkpoint}: {p}" for p in problems])
    with torch.device("meta"):  # a file may ask for more memory than there is
        check_fit(build_model(cfg), weights)
    model = build_model(cfg)
    warn_of_another_network(weights.path, weights.cfg, cfg)
    load_into(model, weights)
    settings = ViewSettings.of_cfg(cfg)
    model.view_settings = _checked(settings) if cfg_path is None else settings
    if weights.class_names:
        model.class_names = weights.class_names
    return model


def _num_classes(weights: Weights) -> int | None:
    bias = weights.state.get(f"{HEAD}bias")
    return None if bias is None else len(bias)
