"""Loads checkpoints into models: what fits is loaded, what does not is reported or refused."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Size, Tensor, nn

from octvideo.models.external import ExternalNetwork, ExternalSpec
from octvideo.models.image import ImageSpec
from octvideo.models.record import Difference, in_keys
from octvideo.models.spec import VideoSpec
from octvideo.weights.formats.files import CheckpointError
from octvideo.weights.kernels import has_one_frame, inflate_kernels, squeeze_kernels
from octvideo.weights.mismatch import Mismatch, compare
from octvideo.weights.names.prefixes import common_prefix
from octvideo.weights.read import Weights
from octvideo.weights.trained import trained_spec

logger = logging.getLogger("octvideo")

HEAD = "head.projection."
_SHOWN = 10


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


def load_into(
    model: nn.Module,
    weights: Weights,
    *,
    finetune: bool = False,
    inflate: bool = False,
    tell: Callable[[Sequence[Difference]], str] = in_keys,
) -> Report:
    """Loads a checkpoint into a model, all of it or nothing.

    An octave model has the names and shapes of the vanilla one, so both take the same files. A
    warning says so if the weights were trained as another network (`differences_of`).

    Args:
        finetune: leave out what fine-tuning will learn: a last layer for another number of
            classes, and the non-local blocks of an octave network, whose shapes differ from the
            vanilla ones. The model keeps its values there. False: everything must fit.
        inflate: the file may hold a 2D network; its kernels are spread over time. With
            ``finetune``, non-local blocks, which 2D networks lack, keep the model's values too.
        tell: how the warning names what differs, ``in_keys`` or ``in_options``.

    Raises:
        CheckpointError: anything else does not fit; the first ten are listed.
    """
    state, left_out = check_fit(model, weights, finetune=finetune, inflate=inflate)
    head = head_of(model)
    if any(m.key.startswith(head) for m in left_out):  # all of it or nothing
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        if f"{head}weight" in shapes:
            _warn_of_new_head(weights, state, shapes, head)
        state = {key: value for key, value in state.items() if not key.startswith(head)}
    skipped = {m.key for m in left_out}
    fitting = {key: value for key, value in state.items() if key not in skipped}
    if differences := differences_of(weights, model, finetune=finetune, inflate=inflate):
        logger.warning(
            "%s was trained as another network: %s. Weights that fit compute something else here "
            "until they are trained: set the values of the file for the network that it is of",
            *(weights.path, tell(differences)),
        )
    model.load_state_dict(fitting, strict=False)
    return Report(weights.path, weights.kind, len(fitting), tuple(left_out))


def head_of(model: nn.Module) -> str:
    """Returns what the names of the parameters of a model's last layer begin with."""
    if isinstance(model, ExternalNetwork):
        return f"{model.head_name}." if model.head_name else "no last layer."
    return HEAD


def differences_of(
    weights: Weights, model: nn.Module, *, finetune: bool = False, inflate: bool = False
) -> list[Difference]:
    """Lists in what the network that the weights were trained as and a model differ.

    Without what is meant to differ: the classes in fine-tuning, and the kernels' third dimension,
    with the architecture that goes with it, in inflation. [] where the file does not say.
    """
    spec = getattr(model, "spec", None)
    if not isinstance(spec, (VideoSpec, ImageSpec, ExternalSpec)):
        return []
    trained = trained_spec(weights, spec)
    meant = {"num_classes"} if finetune else set()
    if inflate:
        meant |= {"network", "arch"}
    return [] if trained is None else trained.differences(spec, without=meant)


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
    is_external, head = isinstance(model, ExternalNetwork), head_of(model)
    state = weights.for_network(shapes, is_external)
    if not is_external:
        state = squeeze_kernels(state, shapes)
    if inflate:
        state = inflate_kernels(state, shapes)
    mismatches = compare(state, shapes)
    left_out = [m for m in mismatches if finetune and _is_excused(m, state, shapes, inflate, head)]
    if refused := [m for m in mismatches if m not in left_out]:
        raise CheckpointError(
            f"{weights.path} does not fit the model{_hint(weights, refused, inflate, head)}:\n"
            f"{_table(refused)}"
        )
    return state, left_out


def _is_excused(
    mismatch: Mismatch,
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    inflate: bool,
    head: str,
) -> bool:
    key, in_file, in_model = mismatch.key, mismatch.in_file, mismatch.in_model
    if key.startswith(head):
        if f"{head}weight" not in shapes:  # a model for features
            return True
        return in_model is not None and (in_file is None or in_file[1:] == in_model[1:])
    if "_nonlocal" not in key:
        return False
    in_both = any("_nonlocal" in k for k in state) and any("_nonlocal" in k for k in shapes)
    return in_both or (inflate and in_file is None)


def _hint(weights: Weights, refused: Sequence[Mismatch], inflate: bool, head: str) -> str:
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
    if all(m.key.startswith(head) for m in refused):
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


def _warn_of_new_head(
    weights: Weights, state: Mapping[str, Tensor], shapes: Mapping[str, Size], head: str
) -> None:
    weight = state.get(f"{head}weight")
    logger.warning(
        "NEW LAST LAYER: %s has %s, the model has %d: %s* starts from random weights",
        weights.path,
        "no last layer" if weight is None else f"{len(weight)} classes",
        shapes[f"{head}weight"][0],
        head,
    )
