"""Writes a network as a folder that can be shared: weights, record, and a card for people."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

import torch

import octvideo
from octvideo.models.build import build, name_of
from octvideo.models.card import model_card
from octvideo.models.classifier import Network
from octvideo.models.external import ExternalSpec
from octvideo.utils.errors import UserError, first_line
from octvideo.utils.extras import import_extra
from octvideo.utils.files import whole_file
from octvideo.utils.plain import to_plain

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
LIBRARY = "octvideo"  # "library_name" of a config.json


def save_pretrained(
    network: Network,
    folder: str | os.PathLike[str],
    *,
    licence: str = "",
    dataset: str = "",
    metrics: Mapping[str, float | str] | None = None,
) -> Path:
    """Writes model.safetensors, config.json and README.md; see `Network.save_pretrained`."""
    import_extra("safetensors.torch", "hub", "save_pretrained")
    from safetensors.torch import save_file

    _check_record(network)
    folder = Path(folder).expanduser()
    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    card = model_card(network, title_of(network), licence, dataset, dict(metrics or {}))
    try:
        with (
            whole_file(folder / WEIGHTS) as weights,
            whole_file(folder / CARD) as readme,
            whole_file(folder / CONFIG) as config,
        ):
            save_file(state, weights, metadata={"format": "pt"})
            readme.write_text(card, encoding="utf-8")
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            text = json.dumps(_config(network, licence, digest), indent=2)
            config.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror or error}") from error
    return folder


def push_to_hub(network: Network, repository: str, private: bool, message: str, **card: Any) -> str:
    """Writes the folder and uploads it; see `Network.push_to_hub`."""
    hub = import_extra("huggingface_hub", "hub", "push_to_hub")
    with tempfile.TemporaryDirectory() as name:
        save_pretrained(network, name, **card)
        api = hub.HfApi(library_name=LIBRARY, library_version=octvideo.__version__)
        try:
            made = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=made.repo_id, folder_path=name, commit_message=message)
        except (OSError, ValueError, hub.errors.HTTPError) as error:
            raise UserError(
                f"{repository} cannot be written on the Hub: {first_line(error)} (log in with "
                "`hf auth login`, or set HF_TOKEN)"
            ) from error
    return str(made)


def title_of(network: Network) -> str:
    """Returns what the network is called in `list_models`, or in its own project."""
    spec = network.spec
    if isinstance(spec, ExternalSpec):
        return spec.name
    return name_of(spec) or str(getattr(spec, "arch", type(spec).__name__))


def _config(network: Network, licence: str, digest: str) -> dict[str, object]:
    protocol = getattr(network, "protocol", None)
    config = {
        "library_name": LIBRARY,
        "version": octvideo.__version__,
        "spec": network.spec.to_dict(),
        "protocol": protocol and to_plain(protocol),
        "class_names": getattr(network, "class_names", None),
        "licence": licence,
        "weights_sha256": digest,
    }
    return {key: value for key, value in config.items() if value}


def _check_record(network: Network) -> None:
    """Raises UserError unless the network can be built again from its record.

    Another network may have parameters of the same names and shapes, so layers are compared.
    """
    with torch.device("meta"):
        built = build(network.spec)
    lines, changed_lines = repr(built).splitlines(), repr(network).splitlines()
    shapes = [{k: tuple(v.shape) for k, v in n.state_dict().items()} for n in (built, network)]
    if lines == changed_lines and shapes[0] == shapes[1]:
        return
    changes = unified_diff(lines, changed_lines, lineterm="", n=0)
    found = (line for line in changes if line.startswith("+") and not line.startswith("+++"))
    change = next(found, "+ other parameters")
    raise UserError(
        f"{title_of(network)} was changed after it was made, so its record (model.spec) does not "
        f"describe it: it has {change[1:].strip():.150}. Save the network before it is optimised; "
        "make it octave by create_model(..., octave_alpha=...) or `octvideo octavize`"
    )
