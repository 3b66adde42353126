"""Files of torch.export, checked before they are opened.

``torch.export.load`` unpickles what a file holds, evaluates its expressions of sizes, and finds its
operations by name in the whole of torch. So a file is opened only if it has no pickles but the
plain one of its example inputs, no compiled code, no expressions but names and numbers, and no
operations but those on tensors (aten).
"""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from octvideo.deploy.record import KEY
from octvideo.utils.errors import UserError, first_line

_OPERATION = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|eq|ge|le)"
)
_EXPRESSION = re.compile(  # sympy's, without powers
    r"(Symbol\('[su]\d+'|Integer|Mul|Add|Max|Min|FloorDiv|Mod|positive|nonnegative|integer"
    r"|True|False|[su]?\d+|[-+*=,() ])*"
)
_PLACES = (
    *("models/", "data/weights/", "data/constants/", "data/sample_inputs/", "extra/"),
    *("archive_format", "archive_version", "byteorder", "version", ".format_version", ".data/"),
)
_MAX_GRAPH = 64 << 20  # bytes of the graph, a text


def open_pt2(
    path: Path,
) -> tuple[str | None, Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]]:
    """Returns the record of a file, and a function that runs its network on arrays.

    Raises:
        UserError: the file is damaged, or holds what could run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive)
        extra = {KEY: ""}
        program = torch.export.load(path, extra_files=extra)
        network = program.module()
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, KeyError, TypeError,
            RuntimeError, AssertionError, EOFError, OSError, AttributeError) as error:  # fmt: skip
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} cannot be opened: it is damaged, or not made by octvideo.export "
            f"({first_line(error)})"
        ) from error

    def run(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            found = network(*map(torch.from_numpy, inputs))
        return [y.numpy() for y in (found if isinstance(found, (tuple, list)) else [found])]

    return extra[KEY], run


def _check(archive: zipfile.ZipFile) -> None:
    """Raises ValueError where a file is damaged, or holds what could run code."""
    if (damaged := archive.testzip()) is not None:  # torch does not look at the checksums
        raise ValueError(f"{damaged} is damaged")
    for entry in archive.infolist():
        _, _, name = entry.filename.partition("/")
        if not name.startswith(_PLACES):
            raise ValueError(f"it holds {name!r:.80}")
        if name.endswith(".json"):
            if entry.file_size > _MAX_GRAPH:
                raise ValueError(f"{name} is larger than any graph")
            for key, value in _leaves(json.loads(archive.read(entry)), ""):
                _check_value(name, key, value)
        elif name.startswith("data/sample_inputs/"):
            torch.load(io.BytesIO(archive.read(entry)), weights_only=True)


def _check_value(file: str, key: str, value: object) -> None:
    if key == "target" and not _OPERATION.fullmatch(str(value)):
        raise ValueError(f"its operation {value!r:.80} is none on tensors")
    if key == "expr_str" and not _EXPRESSION.fullmatch(str(value)):
        raise ValueError(f"its size {value!r:.80} is no plain expression")
    if key == "use_pickle" and value is not False:
        raise ValueError("it holds pickled weights")
    if key == "path_name" and str(value).startswith(("custom_obj", "opaque_obj")):
        raise ValueError("it holds objects of other classes")


def _leaves(content: object, key: str) -> Iterator[tuple[str, object]]:
    """Yields each value that is neither a dict nor a list, with the name that it stands under."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value, key)
    else:
        yield key, content
