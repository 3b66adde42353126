"""Reads what `save_pretrained` writes: a folder here, or a repository of the Hugging Face Hub.

Weights are read from safetensors and the record from JSON, so nothing in them can be run.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from octvideo.models.pretrained import CONFIG, LIBRARY, WEIGHTS
from octvideo.utils.errors import UserError, first_line
from octvideo.utils.extras import import_extra
from octvideo.weights.formats.files import DamagedFile, sha256_of
from octvideo.weights.formats.safetensors_file import read_safetensors

HUB = "hf://"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_ADDRESS = re.compile(rf"{HUB}(?P<name>{REPOSITORY.pattern})(@(?P<revision>.+))?")
_MAX_CONFIG = 64 << 20  # bytes


def weights_file(path: Path) -> Path:
    """Returns the weights of a folder of `save_pretrained`; any other path as it is."""
    return path / WEIGHTS if (path / WEIGHTS).is_file() else path


def read_pretrained(path: Path) -> Mapping[str, object]:
    """Returns the content of a safetensors file, with the record that octvideo wrote beside it.

    Raises:
        CheckpointError: the file is damaged, or safetensors is missing.
        DamagedFile: the record is damaged, or of other weights.
    """
    tensors = read_safetensors(path)
    config = _config_beside(path)
    if config is None:
        return tensors
    digest = config.get("weights_sha256")
    if digest and digest != sha256_of(path):
        raise DamagedFile(
            f"{path} is damaged, or {CONFIG} beside it is of other weights: its SHA-256 is not "
            f"{digest}. Copy or download the folder again"
        )
    return {**config, "model_state": tensors, "source": LIBRARY}


def _config_beside(path: Path) -> Mapping[str, object] | None:
    """Returns the config.json of octvideo beside a file; None: there is none, or not octvideo's."""
    file = path.with_name(CONFIG)
    if path.name != WEIGHTS or not file.is_file():
        return None
    try:
        with open(file, "rb") as opened:
            config = json.loads(opened.read(_MAX_CONFIG))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{file} is damaged ({error}): copy or download it again") from error
    is_own = isinstance(config, Mapping) and config.get("library_name") == LIBRARY
    return config if is_own else None


def fetch_repository(address: str) -> Path:
    """Returns the weights of "hf://owner/name", or "hf://owner/name@revision", here.

    They stay in the cache of huggingface_hub, with config.json beside them.

    Raises:
        UserError: huggingface_hub is not installed, or there is no such repository, revision or
            network.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"{address} is no repository: write {HUB}owner/name or {HUB}owner/name@tag")
    hub = import_extra("huggingface_hub", "hub", address)
    try:
        folder = hub.snapshot_download(
            match["name"],
            revision=match["revision"],
            allow_patterns=[CONFIG, WEIGHTS],
            library_name=LIBRARY,
        )
    except (OSError, ValueError, hub.errors.HTTPError) as error:
        raise UserError(f"{address} cannot be downloaded: {first_line(error)}") from error
    file = Path(folder) / WEIGHTS
    if not file.is_file() or not file.with_name(CONFIG).is_file():
        raise UserError(
            f"{address} has no {WEIGHTS} and {CONFIG}, so save_pretrained did not write it"
        )
    return file
