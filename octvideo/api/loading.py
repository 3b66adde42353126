"""Trained models: of a training run, a checkpoint, or the zoo."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.api.create import create_model
from octvideo.api.protocols import accepted, protocol_of_spec
from octvideo.config import ConfigError, cfg_of_checkpoint, load_cfg, validate
from octvideo.config.published import library_of
from octvideo.data.protocol import build_protocol
from octvideo.deploy import is_exported, open_exported
from octvideo.engine.checkpoint import best_path, list_checkpoints
from octvideo.models import build, build_model
from octvideo.models.classifier import Network
from octvideo.models.external import ExternalSpec
from octvideo.utils.errors import UserError
from octvideo.weights import CheckpointError, Weights, check_fit, load_into, read_weights
from octvideo.weights.converted import as_converted
from octvideo.weights.download import is_address
from octvideo.weights.pretrained import HUB, REPOSITORY, weights_file
from octvideo.weights.zoo import zoo_entry

logger = logging.getLogger("octvideo")


def load(
    source: str | os.PathLike[str],
    cfg: str | Path | None = None,
    *,
    network: str | None = None,
) -> nn.Module:
    """Loads a trained model, in evaluation mode and on the CPU, with all that `predict` needs.

    Args:
        source: the folder of a training run (its OUTPUT_DIR) or of ``save_pretrained``, a
            checkpoint file, the address of one (http, https) or of a repository of the Hugging Face
            Hub (hf://owner/name), a name of ``list_pretrained()``, or a file of
            ``octvideo.export``, which runs in its own runtime. Of a run, the checkpoint with the
            best validation error is loaded, or the newest one where there was no validation.
        cfg: a configuration file, for a checkpoint that holds none.
        network: the "package.module:function" of a network of your own. Its code is run, so a
            checkpoint alone cannot name it.

    Raises:
        UserError: there is no such run, file or name, or its weights cannot be loaded.
    """
    if is_address(source):
        return load_trained(cfg, source, network=network).eval()
    if is_exported(source):
        exported = open_exported(Path(source).expanduser())
        accepted(exported.protocol)
        return exported
    found = checkpoints_of(source)
    if not found:
        return load_zoo(os.fspath(source)).eval()
    beside = Path(source).expanduser() / "config.yaml"
    failures: list[CheckpointError] = []
    for path in found:
        try:
            used = beside if beside.is_file() else None
            return load_trained(cfg, path, beside=used, network=network).eval()
        except CheckpointError as error:
            if path != found[-1]:
                logger.warning("%s. Trying the next checkpoint of the run", error)
            failures.append(error)
    raise failures[0]


def from_pretrained(
    source: str | os.PathLike[str], revision: str | None = None, *, network: str | None = None
) -> nn.Module:
    """Loads what ``model.save_pretrained`` or ``model.push_to_hub`` wrote, as `load` does.

    Args:
        source: a folder; or "owner/name" of a repository of the Hugging Face Hub, which is
            downloaded once (with the extra "hub"). A folder of that name comes first.
        revision: a branch, tag or commit of the repository.
        network: as of `load`.

    Raises:
        UserError: there is no such folder or repository, or it is damaged or another project's.
    """
    text = os.fspath(source)
    if not Path(text).expanduser().is_dir():
        if not text.startswith(HUB):
            if REPOSITORY.fullmatch(text) is None:
                raise UserError(f"{text} is neither a folder nor a repository, as owner/name")
            text = HUB + text
        text = f"{text}@{revision}" if revision else text
    return load(text, network=network)


def checkpoints_of(source: str | os.PathLike[str]) -> list[Path]:
    """Returns the local files that `load` tries, in order; [] for an address or a zoo name.

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
        if (weights := weights_file(path)) != path:
            return [weights]
        raise UserError(
            f"{path} holds no checkpoints: give the OUTPUT_DIR of a training run, or a folder of "
            "save_pretrained"
        )
    text = os.fspath(source)
    if path.is_file():
        return [path]
    if os.sep in text or path.suffix in (".pyth", ".pkl", ".pth", ".pt"):
        raise UserError(f"{text} is neither a checkpoint nor the folder of a training run")
    return []


def load_zoo(name: str) -> nn.Module:
    """Returns a model of the zoo, as it was published.

    Raises:
        UserError: there is no such name, it has no weights, or they are not of a video network.
    """
    entry = zoo_entry(name)
    if entry.inflate:
        raise UserError(
            f"{name} is a network of pictures, for a training to start from: it knows no classes "
            "of videos"
        )
    return create_model(entry.model, pretrained=name)


def load_trained(
    cfg_path: str | Path | None,
    checkpoint: str | Path,
    opts: Sequence[str] = (),
    *,
    beside: Path | None = None,
    network: str | None = None,
) -> nn.Module:
    """Returns the model of a configuration with the weights of a checkpoint (of any known kind).

    With EMA.ENABLE, the weights are the average if the file has one, as in a test.

    Args:
        cfg_path: None for the configuration, or the record, in the checkpoint.
        beside: a configuration for a checkpoint that has neither.
        network: as of `load`.

    Raises:
        UserError: the configuration is wrong, or the checkpoint cannot be read or does not fit.
    """
    given = None if cfg_path is None else load_cfg(cfg_path, opts)

    def clear_names(text: str | None) -> Sequence[str]:
        cfg = given or cfg_of_checkpoint(text, opts)
        return () if cfg is None else cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN

    average = given is None or given.EMA.ENABLE
    weights = read_weights(checkpoint, clear_names=clear_names, average=average)
    cfg = given or cfg_of_checkpoint(weights.cfg, opts)
    if cfg is None and beside is not None and weights.spec is None:
        cfg = given = load_cfg(beside, opts)
    if cfg_path is None:
        _check_named(_own_code(cfg, weights), [network, *opts], weights.path)
    model = _of_record(weights) if cfg is None else _of_cfg(cfg, weights, is_own=given is None)
    if weights.class_names:
        model.class_names = weights.class_names
    return model


def _own_code(cfg: CfgNode | None, weights: Weights) -> str | None:
    """Returns the "package.module:function" that a file asks to be imported; None: nothing."""
    if cfg is not None:
        name = cfg.MODEL.MODEL_NAME if cfg.MODEL.ARCH == "external" else ""
    else:
        name = weights.spec.name if isinstance(weights.spec, ExternalSpec) else ""
    return name if name and library_of(name) is None else None


def _check_named(name: str | None, words: Sequence[str | None], path: Path) -> None:
    """Raises UserError if a file asks for code that the user has not named.

    words: what the user has named: a network, or options of the command line.
    """
    if name is not None and not {name, f"MODEL.MODEL_NAME={name}"} & {*words}:
        raise UserError(
            f"{path} is of the network {name}, which is code to import and run. If you trust it, "
            f"name it: octvideo.load(..., network={name!r}), --opts MODEL.MODEL_NAME {name}, or a "
            "configuration of your own (--cfg FILE)"
        )


def _of_cfg(cfg: CfgNode, weights: Weights, is_own: bool) -> Network:
    """Returns the model of a configuration; is_own: it came in the file of the weights."""
    if is_own and (problems := validate(cfg)):  # it may be of another project
        raise ConfigError([f"the configuration in {weights.path}: {p}" for p in problems])
    with torch.device("meta"):  # a file may ask for more memory than there is
        check_fit(as_converted(build_model(cfg), weights), weights)
    model = as_converted(build_model(cfg), weights)
    load_into(model, weights)
    protocol = build_protocol(cfg)
    model.protocol = accepted(protocol) if is_own else protocol
    return model


def _of_record(weights: Weights) -> Network:
    """Returns the model that the record in a checkpoint describes.

    Raises:
        UserError: there is no record.
    """
    if weights.spec is None:
        raise UserError(
            f"{weights.path} holds weights, but no configuration: give it, too, as --cfg FILE "
            "(in Python, octvideo.load(checkpoint, cfg=FILE))"
        )
    with torch.device("meta"):
        check_fit(build(weights.spec), weights)
    model = build(weights.spec)
    load_into(model, weights)
    model.protocol = accepted(weights.protocol or protocol_of_spec(weights.spec))
    return model
