"""Any checkpoint into any of our models: what fits is loaded, what does not is told or refused."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor, nn

from octvideo.config import cfg_of_checkpoint
from octvideo.layers import OctBatchNorm2d, OctBatchNorm3d
from octvideo.weights.download import fetch, is_address
from octvideo.weights.formats.files import CheckpointError, DamagedFile, file_format
from octvideo.weights.formats.safetensors_file import read_safetensors
from octvideo.weights.formats.torch_file import check_state, read_torch
from octvideo.weights.inflate import as_images, has_one_frame, is_2d, is_resnet2d, resnet2d_names
from octvideo.weights.inflate import inflate as inflate_kernels
from octvideo.weights.names.mxnet_names import read_octconv
from octvideo.weights.names.prefixes import common_prefix, find_state, without_prefix
from octvideo.weights.names.pyslowfast import read_caffe2
from octvideo.weights.names.pytorchvideo import is_pytorchvideo, pytorchvideo_names
from octvideo.weights.zoo import zoo_address

logger = logging.getLogger("octvideo")

# Files of PyTorch and safetensors, told by the names in them; timm's are torchvision's.
TORCH_KINDS = ("octvideo", "pyslowfast", "pytorchvideo", "torchvision")
# Of a run of ours, of one of an earlier version, and of tools/convert_checkpoint.py.
_OWN_KEYS = {"rank_states", "rng_state", "source"}
KINDS = ("auto", "pytorch", "caffe2", "mxnet", *TORCH_KINDS)
_FORMS = {"pickle": "caffe2", "mxnet": "mxnet", "tar": "mxnet"}  # the rest are PyTorch's
HEAD = "head.projection."
_SHOWN = 10


@dataclass
class Weights:
    """The parameters of a file, under our names.

    ``kind``: "caffe2", "mxnet" or one of ``TORCH_KINDS``. ``epoch``: as the file has it, from 0.
    ``cfg``: the YAML text of the configuration that it was trained with. ``class_names``: in
    label order, where the file has them. ``low_channels``: of the batch norms of an octave
    network, by the name of their running mean; None where the file does not tell.
    """

    path: Path
    kind: str
    state: dict[str, Tensor] = field(repr=False)
    epoch: int | None = None
    cfg: str | None = field(default=None, repr=False)
    class_names: list[str] | None = field(default=None, repr=False)
    low_channels: dict[str, int] | None = field(default=None, repr=False)

    @property
    def is_2d(self) -> bool:
        """Whether it is a network of images; PySlowFast's have kernels of one frame."""
        if is_2d(self.state) or not has_one_frame(self.state):
            return is_2d(self.state)
        cfg = cfg_of_checkpoint(self.cfg)
        return cfg is not None and cfg.MODEL.ARCH == "2d"


@dataclass(frozen=True)
class Mismatch:
    """A parameter that does not fit; None where it is missing."""

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
    """What became of a checkpoint: ``loaded`` parameters of it, and those left out."""

    path: Path
    kind: str
    loaded: int
    left_out: tuple[Mismatch, ...] = ()

    def __str__(self) -> str:
        """A line, and a row for each parameter that was left out: name and why."""
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


# ---------------------------------------------------------------- reading


def read_weights(
    path: Path | str,
    kind: str = "auto",
    clear_names: Sequence[str] = (),
    average: bool = False,
) -> Weights:
    """Reads a checkpoint of any known kind; nothing in it is run.

    Args:
        path: a file, the address of one (http, https), which is downloaded once, or a name of
            ``list_pretrained()``, unless there is a file of that name.
        kind: one of ``KINDS``; "auto" recognises the file, another makes sure of it ("pytorch":
            any of ``TORCH_KINDS``).
        clear_names: texts that are removed, at their first occurrence, from the names in a file
            of PyTorch or safetensors.
        average: take the running average of the weights (EMA) where the file has one.

    Raises:
        CheckpointError: the file is damaged, hostile, or of another kind; the message names it.
        DownloadError: the file can not be had.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of checkpoint {kind!r}; known: {', '.join(KINDS)}")
    address, sha256 = (str(path), None) if is_address(path) else zoo_address(path)
    if not address:
        return _read(Path(path).expanduser(), kind, clear_names, average)
    cached = fetch(address, sha256)
    try:
        return _read(cached, kind, clear_names, average)
    except DamagedFile as error:
        if is_address(address):
            cached.unlink(missing_ok=True)
        raise DamagedFile(
            f"{error}. It came from {address} and was removed from the cache: the next call "
            "downloads it again"
        ) from error


def _read(path: Path, kind: str, clear_names: Sequence[str], average: bool) -> Weights:
    form = file_format(path)
    if form in _FORMS:
        _check_kind(path, _FORMS[form], kind)
    if form == "pickle":
        weights = Weights(path, "caffe2", read_caffe2(path))
    elif form in _FORMS:
        state, low_channels = read_octconv(path)
        weights = Weights(path, "mxnet", state, low_channels=low_channels)
    else:
        if kind in ("caffe2", "mxnet"):
            _check_kind(path, "pytorch", kind)
        content = read_safetensors(path) if form == "safetensors" else read_torch(path)
        weights = _of_pytorch(path, content, kind, clear_names, average)
    for key in [key for key in weights.state if key.endswith(".running_var")]:
        counter = key.replace("running_var", "num_batches_tracked")  # older files have none
        weights.state.setdefault(counter, torch.tensor(0))
    return weights


def _of_pytorch(
    path: Path, content: Any, kind: str, clear_names: Sequence[str], average: bool
) -> Weights:
    extra: dict[str, Any] = content if isinstance(content, dict) else {}
    state, key = find_state(content, path, average)
    state = without_prefix(check_state(state, path), clear_names, path, key)
    if any(map(is_pytorchvideo, state)):
        found, ours = "pytorchvideo", pytorchvideo_names(state)
    elif is_resnet2d(state):
        found, ours = "torchvision", resnet2d_names(state)
    else:
        found = "octvideo" if _OWN_KEYS & extra.keys() else "pyslowfast"
        ours = dict(zip(state, state, strict=True))
    _check_kind(path, found, kind)
    epoch, cfg, classes = (extra.get(key) for key in ("epoch", "cfg", "class_names"))
    has_names = isinstance(classes, (list, tuple)) and all(isinstance(c, str) for c in classes)
    lows = extra.get("low_channels")
    has_lows = isinstance(lows, dict) and all(isinstance(n, int) for n in lows.values())
    return Weights(
        path,
        found,
        {ours[key]: value for key, value in state.items()},
        epoch if isinstance(epoch, int) else None,
        cfg if isinstance(cfg, str) else None,
        list(classes) if has_names else None,
        lows if has_lows else None,
    )


def _check_kind(path: Path, found: str, asked: str) -> None:
    if asked not in ("auto", found) and not (asked == "pytorch" and found in TORCH_KINDS):
        raise CheckpointError(
            f"{path} is a file of kind {found}, not {asked}: leave out --from (or kind), and the "
            "kind is recognised"
        )


# ---------------------------------------------------------------- loading


def compare(state: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> list[Mismatch]:
    """Where the parameters of a file and the shapes of a model differ, in the model's order."""
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
    """Loads a checkpoint into a model, wholly or not at all.

    An octave model has the names and shapes of the vanilla one, so both take the same files.

    Args:
        finetune: what a new training makes good may be left out: the last layer, where it is for
            another number of classes, and the non-local blocks of an octave network, whose shapes
            are their own. They keep the values that the model has. False: all must fit.
        inflate: the file may hold a 2D network; its kernels are spread over time. With
            ``finetune``, non-local blocks, which a 2D network has not, keep their values too.

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
    """What `load_into` would load, and leave out; nothing is loaded.

    ``model`` may be one on the meta device: a file whose own configuration asks for a giant is
    refused before memory is taken for it.

    Raises:
        CheckpointError: as of `load_into`.
    """
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    state = as_images(weights.state, shapes)
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
    """What the mismatches have in common, where there is one cause."""
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
    """As ``Weights.low_channels``, of a model: of each batch norm that has low channels."""
    return {
        f"{name}.running_mean": module.channels.low
        for name, module in model.named_modules()
        if isinstance(module, (OctBatchNorm2d, OctBatchNorm3d)) and module.channels.low
    }


def _warn_of_another_alpha(model: nn.Module, weights: Weights) -> None:
    """The parameters of an octave network fit a model of any alpha, but it computes otherwise."""
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
