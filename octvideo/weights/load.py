"""Loads checkpoints into models: what fits is loaded, what does not is reported or refused."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Size, Tensor, nn

from octvideo.layers import OctBatchNorm2d, OctBatchNorm3d
from octvideo.weights.formats.files import CheckpointError
from octvideo.weights.kernels import has_one_frame, inflate_kernels, squeeze_kernels
from octvideo.weights.names.prefixes import common_prefix
from octvideo.weights.read import Weights

logger = logging.getLogger("octvideo")

HEAD = "head.projection."
_SHOWN = 10


@dataclass(frozen=True)
class Mismatch:
    """A parameter that does not fit; a shape is None where the parameter is missing."""

    key: str
    in_file: tuple[int, ...] | None
    in_model: tuple[int, ...] | None

    @property
    def reason(self) -> str:
        if self.in_file is None:
            return "missing in the file"
        if self.in_model is None:
            return "unknown to the model"
        return f"{self.in_file} in the file, {self.in_model} in the model"


@dataclass(frozen=True)
class Report:
    """The result of loading a checkpoint: how many entries were loaded, which were left out."""

    path: Path
    kind: str
    loaded: int
    left_out: tuple[Mismatch, ...] = ()

    def __str__(self) -> str:
        """Returns one line, and a row for each entry that was left out: name and reason."""
        first = f"{self.path} ({self.kind}): {self.loaded} entries loaded"
        if not self.left_out:
            return f"{first}, none left out"
        return f"{first}, {len(self.left_out)} left out\n{_table(self.left_out)}"


def _table(mismatches: Sequence[Mismatch]) -> str:
    shown = mismatches[:_SHOWN]
    lines = [f"  {m.key}: {m.reason}" for m in shown]
    if len(mismatches) > _SHOWN:
        lines.append(f"  and {len(mismatches) - _SHOWN} more")
    return "\n".join(lines)


def compare(state: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> list[Mismatch]:
    """Lists where a file's parameters and a model's shapes differ, in the model's order."""
    return [
        Mismatch(key, _shape(state, key), tuple(shape))
        for key, shape in shapes.items()
        if _shape(state, key) != tuple(shape)
    ] + [Mismatch(key, tuple(state[key].shape), None) for key in state if key not in shapes]


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


def load_into(
    model: nn.Module, weights: Weights, *, finetune: bool = False, inflate: bool = False
) -> Report:
    """Loads a checkpoint into a model, all of it or nothing.

    An octave model has the names and shapes of the vanilla one, so both take the same files.

    Args:
        finetune: leave out what fine-tuning will learn: a last layer for another number of
            classes, and the non-local blocks of an octave network, whose shapes differ from the
            vanilla ones. The model keeps its values there. False: everything must fit.
        inflate: the file may hold a 2D network; its kernels are spread over time. With
            ``finetune``, non-local blocks, which 2D networks lack, keep the model's values too.

    Raises:
        CheckpointError: anything else does not fit; the first ten are listed.
    """
    state, left_out = check_fit(model, weights, finetune=finetune, inflate=inflate)
    if any(m.key.startswith(HEAD) for m in left_out):  # all of it or nothing
        _warn_of_new_head(weights, {key: value.shape for key, value in model.state_dict().items()})
        state = {key: value for key, value in state.items() if not key.startswith(HEAD)}
    skipped = {m.key for m in left_out}
    fitting = {key: value for key, value in state.items() if key not in skipped}
    _warn_of_another_alpha(model, weights)
    model.load_state_dict(fitting, strict=False)
    return Report(weights.path, weights.kind, len(fitting), tuple(left_out))


def check_fit(
    model: nn.Module, weights: Weights, *, finetune: bool = False, inflate: bool = False
) -> tuple[dict[str, Tensor], list[Mismatch]]:
    """Returns what `load_into` would load and what it would leave out, without loading it.

    ``model`` may be on the meta device, so that a file whose configuration asks for a huge network
    is refused before memory is allocated for it.

    Raises:
        CheckpointError: as `load_into`.
    """
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    state = squeeze_kernels(weights.state, shapes)
    if inflate:
        state = inflate_kernels(state, shapes)
    mismatches = compare(state, shapes)
    left_out = [m for m in mismatches if finetune and _is_excused(m, state, shapes, inflate)]
    if refused := [m for m in mismatches if m not in left_out]:
        raise CheckpointError(
            f"{weights.path} does not fit the model{_hint(weights, refused, inflate)}:\n"
            f"{_table(refused)}"
        )
    return state, left_out


def _is_excused(
    mismatch: Mismatch, state: Mapping[str, Tensor], shapes: Mapping[str, Size], inflate: bool
) -> bool:
    key, in_file, in_model = mismatch.key, mismatch.in_file, mismatch.in_model
    if key.startswith(HEAD):
        return in_model is not None and (in_file is None or in_file[1:] == in_model[1:])
    if "_nonlocal" not in key:
        return False
    in_both = any("_nonlocal" in k for k in state) and any("_nonlocal" in k for k in shapes)
    return in_both or (inflate and in_file is None)


def _hint(weights: Weights, refused: Sequence[Mismatch], inflate: bool) -> str:
    """Returns what the message adds where the mismatches have one cause."""
    prefix = common_prefix(list(weights.state))
    if prefix and all(m.in_file is None or m.in_model is None for m in refused):
        return (
            f", all names in it begin with {prefix!r}: if that wraps the network, remove it with "
            f"TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN \"['{prefix}']\" (clear_names, --clear-names)"
        )
    is_video = any(m.in_model is not None and len(m.in_model) == 5 for m in refused)
    if weights.is_2d and is_video and not inflate:
        return ", it holds a 2D network: set TRAIN.CHECKPOINT_INFLATE True"
    if has_one_frame(weights.state) and not inflate and all(map(_differ_in_frames, refused)):
        return (
            ", its kernels have one frame: set TRAIN.CHECKPOINT_INFLATE True to spread them over "
            "those of the model"
        )
    if weights.is_2d and any("pathway1" in m.key for m in refused):
        return ", no 2D network has the shapes of a SlowFast network"
    if all(m.key.startswith(HEAD) for m in refused):
        return ", it is for another number of classes: set MODEL.NUM_CLASSES"
    if all("_nonlocal" in m.key for m in refused):
        if all(m.in_file is None for m in refused):
            return ", it has no non-local blocks: set NONLOCAL.LOCATION without them"
        if all(m.in_model is None for m in refused):
            return ", it has non-local blocks: set the NONLOCAL.LOCATION of its network"
        return " in its non-local blocks: octave networks have their own, which must be trained"
    return ""


def _differ_in_frames(mismatch: Mismatch) -> bool:
    ours, theirs = mismatch.in_model or (), mismatch.in_file or ()
    return len(ours) == len(theirs) == 5 and ours[:2] + ours[3:] == theirs[:2] + theirs[3:]


def low_channels_of(model: nn.Module) -> dict[str, int]:
    """Returns a model's ``Weights.low_channels``: those of each batch norm that has some."""
    return {
        f"{name}.running_mean": module.channels.low
        for name, module in model.named_modules()
        if isinstance(module, (OctBatchNorm2d, OctBatchNorm3d)) and module.channels.low
    }


def _warn_of_another_alpha(model: nn.Module, weights: Weights) -> None:
    """Warns of weights that fit (they fit any alpha) but make the model compute something else."""
    if weights.low_channels is None:
        return
    of_model = low_channels_of(model)
    for key in model.state_dict():
        if key not in weights.state or not key.endswith(".running_mean"):
            continue
        theirs, ours = weights.low_channels.get(key, 0), of_model.get(key, 0)
        if theirs != ours:
            logger.warning(
                "ANOTHER ALPHA: %s has %d low channels of %d in %s, the model has %d: it is "
                "another network, set octave_alpha (OCTAVE.ALPHA) to that of the file",
                weights.path,
                theirs,
                len(weights.state[key]),
                key.removesuffix(".running_mean"),
                ours,
            )
            return


def _warn_of_new_head(weights: Weights, shapes: Mapping[str, Size]) -> None:
    bias = weights.state.get(f"{HEAD}bias")
    logger.warning(
        "NEW LAST LAYER: %s has %s, the model has %d: %s* starts from random weights",
        weights.path,
        "no last layer" if bias is None else f"{len(bias)} classes",
        shapes[f"{HEAD}bias"][0],
        HEAD,
    )
