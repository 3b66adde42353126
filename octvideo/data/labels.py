"""Names of classes, in the order of their labels: those of Kinetics, and those of a file."""

import json
import logging
from importlib import resources
from pathlib import Path

from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")

PACKAGED = ("kinetics400", "kinetics600")


def class_names(source: str | Path) -> list[str]:
    """The class names of "kinetics400", of "kinetics600", or of a JSON file.

    A file holds a list of names, or {name: label} as PySlowFast's kinetics_classnames.json and the
    class_names.json beside a prepared data set.

    Raises:
        UserError: no such file, or its labels are not 0, 1, 2...
    """
    if source in PACKAGED:
        file = resources.files("octvideo.data") / "class_names" / f"{source}.json"
        return json.loads(file.read_text(encoding="utf-8"))
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"there are no class names {source}: give a JSON file or one of {', '.join(PACKAGED)}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file of class names: {error}") from error
    names = _in_order(content) if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path} must hold a list of class names, or {{name: label}} with the labels 0, 1, 2..."
        )
    return names


def class_names_beside(folder: str | Path, num_classes: int) -> list[str] | None:
    """The class names of a data set: class_names.json in the folder of its lists, if it has one.

    Names of another number of classes are left out, with a warning.
    """
    path = Path(folder) / "class_names.json"
    if not path.is_file():
        return None
    names = class_names(path)
    if len(names) == num_classes:
        return names
    logger.warning("%s names %d classes, the model has %d", path, len(names), num_classes)
    return None


def _in_order(labels: dict[str, int]) -> list[str] | None:
    if not all(isinstance(label, int) for label in labels.values()):
        return None
    by_label = {label: name for name, label in labels.items()}
    if len(by_label) < len(labels) or set(by_label) != set(range(len(labels))):
        return None
    return [by_label[label].strip('"') for label in range(len(labels))]  # PySlowFast quotes some
