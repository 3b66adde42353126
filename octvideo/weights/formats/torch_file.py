"""Reads torch.save files: tensors and plain Python values, nothing that could run."""

import pickle
import re
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from octvideo.weights.formats.files import CheckpointError, DamagedFile, file_format

# What torch.load and zipfile raise on bytes that torch.save did not write, all of them seen.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(AssertionError, OverflowError, struct.error),
)
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message: what the file asks for
_BLOCK = 1 << 20
_MAX_SHARED = 4  # how often parameters may share their content, on average
# What training programs save beside the weights: arguments, paths, numpy scalars, and dicts.
_BESIDE = (
    *("argparse.Namespace", "builtins.list", "builtins.dict", "numpy.dtype", "numpy.ndarray"),
    *(f"datetime.{name}" for name in ("date", "datetime", "timedelta")),
    *(
        f"{module}.{family}{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for family in ("", "Pure")
        for kind in ("", "Posix", "Windows")
    ),
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
)
_DICTS = (
    *("collections.defaultdict", "yacs.config.CfgNode", "fvcore.common.config.CfgNode"),
    *(
        "easydict.EasyDict",
        "addict.addict.Dict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    ),
    *(f"{root}.utilities.data.AttributeDict" for root in ("lightning.fabric", "lightning_fabric")),
)


class _Unread:
    """Stands in for an object whose content is not needed: nothing is looked up or called."""

    def __new__(cls, *_args: object, **_kwargs: object) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class _Dict:
    """Stands in for a kind of dict: torch.load fills only those that it knows."""

    def __new__(cls, *_args: object, **_kwargs: object) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


def _stand_in(name: str, kind: type) -> type:
    """Returns the class that torch.load finds under a name instead of the real one."""
    module, _, attribute = name.rpartition(".")
    return type(attribute, (kind,), {"__module__": module, "__qualname__": attribute})


_STAND_INS: list[Callable[..., object] | tuple[Callable[..., object], str]]
_STAND_INS = [_stand_in(name, _Unread) for name in _BESIDE]
_STAND_INS += [_stand_in(name, _Dict) for name in _DICTS]
_LOCK = threading.Lock()


@contextmanager
def _stand_ins_admitted() -> Iterator[None]:
    """Admits the stand-ins; torch's list is one for the process, so it is restored at the end."""
    with _LOCK:
        before = torch.serialization.get_safe_globals()
        torch.serialization.add_safe_globals(_STAND_INS)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def read_torch(path: Path) -> object:
    """Returns the content of a PyTorch file, on the CPU.

    Program arguments, paths and numpy scalars in it become objects without content.

    Raises:
        CheckpointError: the file does not exist, is truncated or damaged, is not a PyTorch file, or
            holds objects that could run code.
    """
    if file_format(path) == "torch":
        _check_archive(path)
    try:  # nothing of ours runs in here: what is raised is about the file
        with _stand_ins_admitted():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _refusal(path: Path, text: str) -> CheckpointError:
    """Replaces torch's message, which advises to load the file without protection."""
    if match := _FORBIDDEN.search(text):
        return CheckpointError(
            f"{path} is refused, nothing of it was run: it asks for {match[1]}; only tensors and "
            "plain values are admitted, as a state_dict() has them. Where you trust the file, load "
            "it with the program that wrote it, and save its state_dict() alone"
        )
    return DamagedFile(f"{path} is no checkpoint, or damaged: it is not what torch.save writes")


def _damaged(path: Path, error: Exception) -> DamagedFile:
    text = re.split(r"\. |\n", str(error).strip())[0] or type(error).__name__
    return DamagedFile(f"{path} cannot be read, it may be truncated or damaged: {text}")


def _check_archive(path: Path) -> None:
    """Checks what torch.load does not: which records there are, their sizes and checksums."""
    try:
        names = _sound_records(path)
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint: save its state_dict()"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path} is a zip file, but not one of torch.save")


def _sound_records(path: Path) -> list[str]:
    """Returns the names of an archive's records after checking each against its checksum.

    torch.save does not compress, so a record larger than the file would be a bomb.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        size = sum(record.file_size for record in records)
        if size > path.stat().st_size or any(record.compress_type for record in records):
            raise zipfile.BadZipFile(
                f"its records are compressed, or claim more than the file has: {size} bytes"
            )
        for record in records:
            if record.CRC:  # 0 where torch was told not to compute them
                with archive.open(record) as file:
                    while file.read(_BLOCK):
                        pass
        return [record.filename for record in records]


def check_state(state: object, path: Path) -> dict[str, Tensor]:
    """Returns ``state`` if it maps names to ordinary tensors whose bytes are in the file.

    Raises:
        CheckpointError: it does not.
    """
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} holds no parameters: it is not a checkpoint of a model")
    storages: dict[int, int] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} is not a checkpoint of a model: where the tensors are due, it has "
                f"{key!r:.60} with a {type(value).__name__}"
            )
        is_plain = value.layout == torch.strided and value.device.type == "cpu"
        if not is_plain or value.is_quantized:
            raise CheckpointError(f"{path}: {key} is not an ordinary tensor")
        storage = value.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if value.numel() * value.element_size() > storage.nbytes():
            raise CheckpointError(f"{path}: {key} is larger than its content in the file")
    if sum(storages.values()) > path.stat().st_size:
        raise CheckpointError(f"{path} claims more content than the file has")
    check_shared(state.values(), path)
    return {key: value.detach() for key, value in state.items()}


def check_shared(tensors: Iterable[Tensor], path: Path) -> None:
    """Rejects a file in which many parameters share their content: copied, each takes its own.

    Raises:
        CheckpointError: the copies would take several times the size of the file.
    """
    content = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if content > _MAX_SHARED * path.stat().st_size:
        raise CheckpointError(
            f"{path} claims more content than the file has: its parameters share theirs, and are "
            f"{content} bytes in use"
        )
