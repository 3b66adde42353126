"""Names of classes, in the order of their labels: of Kinetics, or from a file."""

import json
import logging
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")

_LABEL = re.compile("[0-9]{1,9}")
_LABEL_FIRST = re.compile(r"(?P<label>[0-9]{1,9})(?:\s*[,;:\t]\s*|\s+)(?P<name>.*\S)")
_LABEL_LAST = re.compile(r"(?P<name>.*\S)(?:\s*[,;:\t]\s*|\s+)(?P<label>[0-9]{1,9})")
_HEADER = re.compile(r"(id|index|label|class|name|class.?name)\s*[,;\t]\s*\w+", re.IGNORECASE)

PACKAGED = ("kinetics400", "kinetics600")


def class_names(source: str | Path) -> list[str]:
    """Returns the class names of "kinetics400", of "kinetics600", or of a file.

    A file holds, as JSON, a list of names, {name: label} as PySlowFast's kinetics_classnames.json
    and the class_names.json beside a prepared data set, or {label: name}; or, as text, a name a
    line, each with its label before or behind it or none with one.

    Raises:
        UserError: there is no such file, or its labels are not 0, 1, 2...
    """
    if source in PACKAGED:
        file = resources.files("octvideo.data") / "class_names" / f"{source}.json"
        return json.loads(file.read_text(encoding="utf-8"))
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(
            f"there are no class names {source}: give a file of names or one of "
            f"{', '.join(PACKAGED)}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # with a byte order mark or without
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8: {error}") from error
    if text.lstrip()[:1] not in ("[", "{") and path.suffix.lower() != ".json":
        return _of_lines(text.split("\n"), path)  # a name may hold U+2028
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file of class names: {error}") from error
    names = _in_order(content) if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path} must hold a list of class names, {{name: label}} or {{label: name}} with the "
            "labels 0, 1, 2..."
        )
    return names


def class_names_beside(folder: str | Path, num_classes: int) -> list[str] | None:
    """Returns the class names in the class_names.json in a folder of lists, if there is one.

    Names of another number of classes are left out, with a warning.
    """
    path = Path(folder) / "class_names.json"
    if not path.is_file():
        return None
    names = class_names(path)
    if len(names) == num_classes:
        return names
    logger.warning(
        "%s names %d classes, but MODEL.NUM_CLASSES is %d: checkpoints and results will have no "
        "names. MODEL.NUM_CLASSES %d would fit",
        *(path, len(names), num_classes, len(names)),
    )
    return None


def _in_order(content: Mapping[str, object]) -> list[str] | None:
    """Returns the names of {name: label} or {label: name}; None if it is neither or has gaps."""
    by_label: dict[int | None, object] = {_number(value): key for key, value in content.items()}
    if None in by_label:
        by_label = {_number(key): value for key, value in content.items()}
    if set(by_label) != set(range(len(content))):
        return None
    names = [by_label[label] for label in range(len(content))]
    # ImageNet's class index has {"0": ["n01440764", "tench"]}
    names = [name[-1] if isinstance(name, list) and name else name for name in names]
    texts = [name.strip('"') for name in names if isinstance(name, str)]  # PySlowFast quotes some
    return texts if len(texts) == len(names) else None


def _number(value: object) -> int | None:
    """Returns the label that a value is; None if it is none, as True is."""
    return int(str(value)) if _LABEL.fullmatch(str(value)) else None


def _of_lines(lines: list[str], path: Path) -> list[str]:
    """Reads a name a line, or "label name" or "name label", also as a table with commas or tabs."""
    rows = [line.strip() for line in lines if line.strip()]
    if rows and _HEADER.fullmatch(rows[0]):
        rows = rows[1:]
    for pattern in (_LABEL_FIRST, _LABEL_LAST):
        matches = [found for row in rows if (found := pattern.fullmatch(row))]
        by_name = {m["name"].strip("\"'"): m["label"] for m in matches}
        if not rows or len(by_name) < len(rows):  # some have none, or "class 1", "class 2"...
            continue
        names = _in_order(by_name)
        if names is None:
            raise UserError(f"{path}: its labels must be 0, 1, 2..., each once")
        return names
    names = [row.strip('"') for row in rows]
    if not names or len(set(names)) < len(names):
        what = "has no class names" if not names else "has a class name twice"
        raise UserError(f"{path} {what}: write a name a line")
    return names
