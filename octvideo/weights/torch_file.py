"""Reads files of torch.save: tensors and plain Python values, nothing that could run."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octvideo.weights.files import CheckpointError

# What torch and the standard library raise on damaged bytes.
_DAMAGED = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(AssertionError, MemoryError, OverflowError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile),
)


def read_torch(path: Path) -> Any:
    """The content of a PyTorch file, on the CPU.

    Raises:
        CheckpointError: no such file, a truncated one, one that is no PyTorch file, or one that
            holds objects which could run code.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        _check_records(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no checkpoint, or holds more than tensors and plain values: "
            f"{_first_line(error)}"
        ) from error
    except _DAMAGED as error:
        raise CheckpointError(
            f"{path} can not be read, it may be truncated: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _check_records(path: Path) -> None:
    """torch.save does not compress: a record larger than the file would be a bomb."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(record.file_size for record in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"its records claim {size} bytes, more than the file has")


def check_state(state: Any, path: Path) -> dict[str, Tensor]:
    """``state`` if it is a dict of names and ordinary tensors that the file has the bytes of."""
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
    return {key: value.detach() for key, value in state.items()}
