"""Says whether a checkpoint belongs to a run, and what has changed since it was written."""

from collections.abc import Mapping
from pathlib import Path

from fvcore.common.config import CfgNode

from octvideo.config import Resume, cfg_of_checkpoint, leaf_values, resume_effect
from octvideo.engine.checkpoint import CheckpointError, OtherRun
from octvideo.models.build import Spec
from octvideo.models.record import KEYS, in_keys
from octvideo.weights.read import read_records
from octvideo.weights.trained import spec_of_text


def check_resume(path: Path, content: Mapping[str, object], spec: Spec, cfg: CfgNode) -> str:
    """Returns which settings have changed since the checkpoint, "KEY was A, is B; ...", or "".

    Args:
        spec: the network of the run.

    Raises:
        CheckpointError: the file has no optimizer, or belongs to another run (`OtherRun`).
    """
    if "optimizer_state" not in content or "epoch" not in content:
        raise CheckpointError(
            f"{path} holds weights, but no run that could go on: move it out of that folder and "
            f"name it in TRAIN.CHECKPOINT_FILE_PATH"
        )
    text = content.get("cfg")
    if text is not None and not isinstance(text, str):
        raise CheckpointError(
            f"{path} is damaged: cfg is a {type(text).__name__}, and must be text"
        )
    trained = read_records(path, content)[0] or spec_of_text(text)
    differences = [] if trained is None else trained.differences(spec)
    changes = _changed_keys(text, cfg)
    other = [in_keys(differences)] if differences else []
    if fixed := _text(changes, Resume.REFUSED):
        other.append(fixed)
    if other:
        raise OtherRun(
            f"{path} is of another run ({'; '.join(other)}): set another OUTPUT_DIR, or the "
            "values of that run"
        )
    return _text(changes, Resume.WARNED)


def _changed_keys(text: str | None, cfg: CfgNode) -> dict[str, tuple[object, object]]:
    """Returns the values of a checkpoint's configuration and of ``cfg`` where they differ, by key.

    {} where the checkpoint has no configuration.
    """
    trained = cfg_of_checkpoint(text)
    if trained is None:
        return {}
    theirs, ours = leaf_values(trained), leaf_values(cfg)
    return {
        key: (theirs[key], ours[key])
        for key in sorted(theirs.keys() & ours.keys())
        if theirs[key] != ours[key]
    }


def _text(changes: dict[str, tuple[object, object]], effect: Resume) -> str:
    """Returns the changes with this effect on resuming; whether the network changed is known."""
    of_network = (*KEYS.values(), "OCTAVE.", "NONLOCAL.")
    return "; ".join(
        f"{key} was {old}, is {new}"
        for key, (old, new) in changes.items()
        if resume_effect(key) is effect
        and not (effect is Resume.REFUSED and key.startswith(of_network))
    )
