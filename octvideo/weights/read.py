"""Reads checkpoints of all known kinds: their parameters under our names."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from octvideo.config import cfg_of_checkpoint, takes_images
from octvideo.config.published import library_of
from octvideo.data.protocol import Protocol
from octvideo.models.build import Spec, spec_from_dict
from octvideo.models.external import ExternalSpec
from octvideo.utils.errors import check_known
from octvideo.utils.plain import from_plain
from octvideo.weights.download import fetch, is_address
from octvideo.weights.formats.files import CheckpointError, DamagedFile, file_format
from octvideo.weights.formats.torch_file import check_state, read_torch
from octvideo.weights.kernels import has_one_frame, is_2d
from octvideo.weights.libraries import library_address, library_class_names, library_state
from octvideo.weights.names.mxnet import read_octconv
from octvideo.weights.names.prefixes import cleared, find_state, without_prefix
from octvideo.weights.names.pyslowfast import read_caffe2
from octvideo.weights.names.pytorchvideo import is_pytorchvideo, pytorchvideo_names
from octvideo.weights.names.torchvision import is_torchvision, torchvision_names
from octvideo.weights.pretrained import read_pretrained, weights_file
from octvideo.weights.zoo import ZooEntry, zoo_address, zoo_entry

# Kinds of PyTorch and safetensors files, recognised by the names in them; timm's are torchvision's.
TORCH_KINDS = ("octvideo", "pyslowfast", "pytorchvideo", "torchvision")
KINDS = ("auto", "pytorch", "caffe2", "mxnet", *TORCH_KINDS)
# Keys that only our files have: of a run, of a run of an earlier version, of a converted file.
_OWN_KEYS = {"rank_states", "rng_state", "source"}
_KIND_OF_FORMAT = {"pickle": "caffe2", "mxnet": "mxnet", "tar": "mxnet"}  # the rest are PyTorch's

ClearNames = Sequence[str] | Callable[[str | None], Sequence[str]]


@dataclass
class Weights:
    """The parameters of a file, under our names.

    Attributes:
        kind: "caffe2", "mxnet" or one of ``TORCH_KINDS``.
        epoch: as the file has it, counted from 0.
        cfg: the YAML text of the configuration that the network was trained with.
        class_names: in label order, where the file has them.
        low_channels: of the batch norms of an octave network, by the name of their running mean;
            None where the file does not say.
        spec, protocol: the records of the network and of how it looks at a file, where the file
            has them.
        entry: of the zoo, if the file is one of its own.
        original: the parameters as the file names them, for networks of other projects.
    """

    path: Path
    kind: str
    state: dict[str, Tensor] = field(repr=False)
    epoch: int | None = None
    cfg: str | None = field(default=None, repr=False)
    class_names: list[str] | None = field(default=None, repr=False)
    low_channels: dict[str, int] | None = field(default=None, repr=False)
    spec: Spec | None = field(default=None, repr=False)
    protocol: Protocol | None = field(default=None, repr=False)
    entry: ZooEntry | None = field(default=None, repr=False)
    original: dict[str, Tensor] | None = field(default=None, repr=False)

    def for_network(self, shapes: Mapping[str, torch.Size], is_external: bool) -> dict[str, Tensor]:
        """Returns the parameters under the names that a network has.

        shapes: of the network. is_external: it is of another project, whose names they may be,
        behind a prefix ("module.", "model."). Counters of batch norm that are missing are added.
        """
        if not is_external:
            return self.state
        held = self.state if self.original is None else self.original
        prefix = _prefix_before(held, shapes)
        state = {name.removeprefix(prefix): value for name, value in held.items()}
        for name in shapes.keys() - state.keys():
            if name.endswith("num_batches_tracked"):
                state[name] = torch.tensor(0)
        return state

    @property
    def is_2d(self) -> bool:
        """Returns whether this is an image network; PySlowFast's have kernels of one frame."""
        if is_2d(self.state) or not has_one_frame(self.state):
            return is_2d(self.state)
        cfg = cfg_of_checkpoint(self.cfg)
        return cfg is not None and takes_images(cfg)


def read_weights(
    path: Path | str,
    kind: str = "auto",
    clear_names: ClearNames = (),
    average: bool = False,
) -> Weights:
    """Reads a checkpoint of any known kind; nothing in it is run.

    Args:
        path: a file, a folder of ``save_pretrained``, the address of a file (http, https) or a
            repository (hf://owner/name), which is downloaded once, or, unless there is a file of
            that name, a name from ``list_pretrained()`` or a network of a library, as
            "timm/resnet50", for the weights that it publishes.
        kind: one of ``KINDS``; "auto" recognises the kind, another is checked ("pytorch": any of
            ``TORCH_KINDS``).
        clear_names: texts to remove, at their first occurrence, from the names in a PyTorch or
            safetensors file; or a function that returns them for the configuration in the file.
        average: take the running average of the weights (EMA) where the file has one.

    Raises:
        CheckpointError: the file is damaged, hostile, or of another kind; the message names it.
        DownloadError: the file cannot be downloaded.
    """
    check_known("kind of checkpoint", kind, KINDS)
    if library_of(str(path)) and not Path(path).exists():
        return _of_library(str(path), clear_names, average)
    address, sha256 = (str(path), None) if is_address(path) else zoo_address(path)
    if not address:
        return _read(weights_file(Path(path).expanduser()), kind, clear_names, average)
    cached = fetch(address, sha256)
    try:
        weights = _read(cached, kind, clear_names, average)
        weights.entry = None if is_address(path) else zoo_entry(str(path))
        return weights
    except DamagedFile as error:
        if not is_address(address):
            raise
        for file in (cached.resolve(), cached):  # the Hub's are links
            file.unlink(missing_ok=True)
        raise DamagedFile(
            f"{error}. It came from {address} and was removed from the cache: the next call "
            "downloads it again"
        ) from error


def _of_library(name: str, clear_names: ClearNames, average: bool) -> Weights:
    """The weights that a library publishes for a network, "timm/resnet50"."""
    if address := library_address(name):
        weights = _read(fetch(address), "pytorch", clear_names, average)
        weights.class_names = library_class_names(name)
        return weights
    state, names = library_state(name)
    weights = _under_our_names(Path(name), state)
    weights.original, weights.class_names = state, names
    return weights


def _read(path: Path, kind: str, clear_names: ClearNames, average: bool) -> Weights:
    form = file_format(path)
    found = _KIND_OF_FORMAT.get(form, "pytorch")
    if found != "pytorch" or kind in ("caffe2", "mxnet"):  # PyTorch's kinds: by the names, later
        _check_kind(path, found, kind)
    if found == "caffe2":
        weights = Weights(path, found, read_caffe2(path))
    elif found == "mxnet":
        state, low_channels = read_octconv(path)
        weights = Weights(path, found, state, low_channels=low_channels)
    else:
        content = read_pretrained(path) if form == "safetensors" else read_torch(path)
        weights = _of_pytorch(path, content, kind, clear_names, average)
    for key in [key for key in weights.state if key.endswith(".running_var")]:
        counter = key.replace("running_var", "num_batches_tracked")  # older files have none
        weights.state.setdefault(counter, torch.tensor(0))
    return weights


def _of_pytorch(
    path: Path, content: object, kind: str, clear_names: ClearNames, average: bool
) -> Weights:
    extra: Mapping[str, object] = content if isinstance(content, Mapping) else {}
    held, key = find_state(content, path, average)
    epoch, cfg = extra.get("epoch"), extra.get("cfg")
    cfg = cfg if isinstance(cfg, str) else None
    if callable(clear_names):
        clear_names = clear_names(cfg)
    checked = check_state(held, path)
    spec, protocol = read_records(path, extra)
    if isinstance(spec, ExternalSpec):  # its names are its project's
        weights = Weights(path, "octvideo", dict(checked))
    else:
        weights = _under_our_names(path, without_prefix(checked, clear_names, path, key))
        if weights.kind == "pyslowfast" and _OWN_KEYS & extra.keys():
            weights.kind = "octvideo"
    _check_kind(path, weights.kind, kind)
    # What stands beside the parameters is taken where it is of the right type.
    weights.epoch = epoch if isinstance(epoch, int) else None
    weights.cfg = cfg
    weights.class_names = _class_names(extra.get("class_names"))
    weights.low_channels = _low_channels(extra.get("low_channels"))
    weights.spec, weights.protocol = spec, protocol
    weights.original = {cleared(name, clear_names): value for name, value in checked.items()}
    return weights


def _under_our_names(path: Path, state: Mapping[str, Tensor]) -> Weights:
    if any(map(is_pytorchvideo, state)):
        kind, ours = "pytorchvideo", pytorchvideo_names(state)
    elif is_torchvision(state):
        kind, ours = "torchvision", torchvision_names(state)
    else:
        kind, ours = "pyslowfast", {name: name for name in state}
    return Weights(path, kind, {ours[name]: value for name, value in state.items()})


def _prefix_before(names: Iterable[str], wanted: Collection[str]) -> str:
    """Returns what stands before the names that a network has, in most names of a file."""
    prefixes = Counter(
        name[: len(name) - len(tail)]
        for name in names
        for tail in [name, *_tails(name)]
        if tail in wanted
    )
    return max(prefixes, key=lambda prefix: (prefixes[prefix], -len(prefix)), default="")


def _tails(name: str) -> Iterator[str]:
    """Yields "b.c" and "c" of "a.b.c"."""
    while name := name.partition(".")[2]:
        yield name


def read_records(path: Path, content: Mapping[str, object]) -> tuple[Spec | None, Protocol | None]:
    """Returns the records of network and protocol in a checkpoint of octvideo, or None.

    Raises:
        CheckpointError: a record is damaged; names the field.
    """
    try:
        spec = spec_from_dict(content.get("spec"))
        if spec is None:  # not a file of octvideo, or an old one
            return None, None
        protocol = content.get("protocol")
        return spec, None if protocol is None else from_plain(Protocol, protocol, "protocol.")
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _class_names(value: object) -> list[str] | None:
    if not isinstance(value, (list, tuple)):
        return None
    names = [name for name in value if isinstance(name, str)]
    return names if len(names) == len(value) else None


def _low_channels(value: object) -> dict[str, int] | None:
    if not isinstance(value, dict):
        return None
    counts = {str(name): count for name, count in value.items() if isinstance(count, int)}
    return counts if len(counts) == len(value) else None


def _check_kind(path: Path, found: str, asked: str) -> None:
    if asked not in ("auto", found) and not (asked == "pytorch" and found in TORCH_KINDS):
        raise CheckpointError(
            f"{path} is a file of kind {found}, not {asked}: leave out --from (or kind), and the "
            "kind is recognised"
        )
