"""The formats of exported networks, recognised by the suffix of a file."""

import os
from pathlib import Path

from octvideo.utils.errors import UserError

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}


def format_of(path: str | os.PathLike[str], given: str | None = None) -> str:
    """Returns the format that a file's suffix names.

    Raises:
        UserError: no format has that suffix, or ``given`` is another one.
    """
    suffix = Path(path).suffix
    known = ", ".join(f"{name} (*{end})" for name, end in FORMATS.items())
    if given is not None and given not in FORMATS:
        raise UserError(f"unknown format {given!r}: choose one of {known}")
    found = next((name for name, end in FORMATS.items() if end == suffix), None)
    if found is None:
        raise UserError(f"{path} has no suffix of a format: {known}")
    if given is not None and found != given:
        raise UserError(f"{path} is a name of {found}, not of {given}: end it in {FORMATS[given]}")
    return found


def parts_of(path: Path) -> list[Path]:
    """Returns the files of an exported network: an .xml has its weights in a .bin beside it."""
    return [path, path.with_suffix(".bin")] if path.suffix == FORMATS["openvino"] else [path]


def megabytes(path: Path) -> float:
    """Returns the size of an exported network, in units of 10^6 bytes."""
    return sum(file.stat().st_size for file in parts_of(path)) / 1e6


def is_exported(source: str | os.PathLike[str]) -> bool:
    """Returns whether the name of a source of weights is that of an exported network."""
    return Path(source).suffix in FORMATS.values()
