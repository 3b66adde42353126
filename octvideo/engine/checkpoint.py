"""Checkpoint files: written atomically, found again, read without running their code.

``checkpoint_epoch_00003.pyth`` is written after three epochs, as PySlowFast writes it;
``checkpoint_epoch_00003_step_000120.pyth`` after 120 more steps, when TRAIN.CHECKPOINT_SECONDS have
passed or the run was asked to stop; ``checkpoint_best.pyth`` has the lowest validation error.
"""

import itertools
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from octvideo.weights import CheckpointError, check_state, read_torch

logger = logging.getLogger("octvideo")

_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.pyth")


def checkpoint_path(folder: Path, epochs: int, step: int = 0) -> Path:
    """Returns the file of a run that has finished ``epochs`` and ``step`` steps of the next."""
    suffix = f"_step_{step:06d}" if step else ""
    return folder / f"checkpoint_epoch_{epochs:05d}{suffix}.pyth"


def best_path(folder: Path) -> Path:
    """Returns the file of the lowest validation error so far."""
    return folder / "checkpoint_best.pyth"


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a folder, the least progress first."""
    return [path for _, path in _by_progress(folder)]


def _by_progress(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """Returns (finished epochs, steps of the next) and path of each checkpoint, in this order."""
    paths = folder.glob("checkpoint_epoch_*.pyth")
    return sorted((_progress(path), path) for path in paths if _NAME.fullmatch(path.name))


def _progress(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def save_checkpoint(path: Path, content: dict[str, object]) -> None:
    """Writes ``content`` to a temporary file beside ``path``, syncs it, and renames it.

    Whatever happens, ``path`` is either the old file or the complete new one.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise CheckpointError(
            f"cannot write the checkpoint {path}: {_cause(error)}; what was saved before is whole"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _cause(error: BaseException) -> str:
    """Returns the words of the system, if its error is the cause of the one that torch raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)


def link_checkpoint(source: Path, path: Path, content: dict[str, object]) -> None:
    """Gives the file ``source``, which has ``content``, the name ``path`` as well, atomically.

    If the file system has no hard links, ``content`` is written once more.
    """
    temporary = _temporary(path)
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError:
        save_checkpoint(path, content)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: Path) -> dict[str, object]:
    """Reads a checkpoint of octvideo on the CPU; only tensors and plain values are admitted.

    Raises:
        CheckpointError: no such file, a truncated one, one that is no checkpoint, or one that
            holds objects which could run code.
    """
    content = read_torch(path)
    if not isinstance(content, dict) or "model_state" not in content:
        raise CheckpointError(f"{path} has no 'model_state': it is not a checkpoint of this kind")
    check_state(content["model_state"], path)
    return content


class OtherRun(CheckpointError):  # noqa: N818 - the base says it
    """The file is sound, but belongs to another run."""


def newest_first(folder: Path, use: Callable[[Path, dict[str, object]], None]) -> Path | None:
    """Returns the checkpoint of the most progress that can be read and that ``use`` accepts.

    If one fails, a warning says so and the one before it is tried. None if there are none.

    Raises:
        CheckpointError: of the newest, if all fail. Two files of another run are enough to fail.
    """
    failures: list[CheckpointError] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            use(path, load_checkpoint(path))
        except CheckpointError as error:
            failures.append(error)
            if sum(isinstance(failure, OtherRun) for failure in failures) > 1:
                break
            logger.warning("%s; trying the one before it", error)
        else:
            return path
    if failures:
        raise failures[0]
    return None


def prepare_folder(folder: Path) -> None:
    """Makes the folder, removes what a killed run had begun to write, and tries to write.

    Raises:
        CheckpointError: checkpoints cannot be written there.
    """
    probe = _temporary(folder / "checkpoint_probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        for path in folder.glob(".checkpoint_*.tmp"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"checkpoints cannot be written to {folder}: {error.strerror}; set another OUTPUT_DIR"
        ) from error


def set_aside(folder: Path) -> Path | None:
    """Renames a folder of checkpoints, atomically, and makes an empty one in its place.

    If a new run wrote beside them, it would later be resumed from whichever has more epochs, and it
    would overwrite some and remove others. For a link, the folder behind it is renamed.

    Returns:
        Where the checkpoints are now; None if there were none.

    Raises:
        CheckpointError: the folder cannot be renamed, such as the root of a file system.
    """
    if not any(folder.glob("checkpoint_*.pyth")):
        return None
    real = folder.resolve()
    names = (real.with_name(f"{real.name}_{number}") for number in itertools.count(1))
    target = next(name for name in names if not name.exists())
    try:
        real.rename(target)
    except OSError as error:
        raise CheckpointError(
            f"{folder} has checkpoints of an earlier run and cannot be renamed: {error.strerror}; "
            "set another OUTPUT_DIR"
        ) from error
    prepare_folder(real)
    _sync_folder(real.parent)
    return target


def remove_superseded(folder: Path, newest: Path, keep: int, done: bool = False) -> None:
    """Deletes all but the ``keep`` last epoch checkpoints (0: none of them), and older step ones.

    The one before ``newest`` always stays, in case the newest gets damaged, unless the run is
    ``done`` and an epoch checkpoint serves that purpose.
    """
    reached = _progress(newest)
    older = [(progress, path) for progress, path in _by_progress(folder) if progress < reached]
    epochs = [path for (_, step), path in older if not step]
    kept = keep - (not reached[1]) if keep else len(epochs)
    staying = set(epochs[len(epochs) - min(kept, len(epochs)) :])
    if not (done and staying):
        staying.update(path for _, path in older[-1:])
    for _, path in older:
        if path not in staying:
            path.unlink(missing_ok=True)
