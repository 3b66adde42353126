"""Lists of videos: the one reader of all forms in which a list may come.

The usual form is Kinetics': a line ``path<SEP>label`` a video. A csv with a header (path, label)
and a JSON file work too, and so do the variants that spreadsheets and other projects write.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from octvideo.data.labels import class_names
from octvideo.data.sources.file_list import UNLABELLED, FileList, Finding
from octvideo.data.sources.folders import first_few
from octvideo.data.sources.list_rows import ListFile, Row, is_number, is_video_name
from octvideo.utils.errors import UserError

Unlabelled = Literal["refuse", "all", "any"]
_ENDINGS = (".csv", ".txt", ".tsv", ".json")  # of a list, in the order of search
_MAX_PATH_BYTES = 4096  # what Linux opens at most: a longer one has lost a line break
_MAX_DIGITS = 9  # of a label
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_PROBED = 8  # videos of a list that are looked for on the disk


def read_list(
    path: str | Path,
    separator: str = " ",
    prefix: str = "",
    num_classes: int | None = None,
    unlabelled: Unlabelled = "refuse",
) -> FileList:
    """Reads a list of videos: lines ``path<SEP>label``, a csv with a header, or JSON.

    Lines: the last separator splits, so that paths may hold separators; blank lines and those
    that start with # are skipped. The default separator, a blank, also stands for a tab, and for
    a comma or semicolon where the first line has its label behind one. A field between path and
    label is left out as in PySlowFast, where every line has one (see `_without_middle`).

    csv: the first line names the columns (path, label; others do not matter). JSON (a name that
    ends in .json): ``[[path, label], ...]``, ``[{"path": ..., "label": ...}, ...]``,
    ``{path: label}``, or ``[path, ...]``. Quotes around a field are taken off.

    Labels are integers from 0, or class names of the class_names.json beside the list; without
    that file, the names that train.csv beside it has, in alphabetical order.

    Args:
        unlabelled: may videos be without a label? "refuse": none. "all": all of them, or none.
            "any". Their label is -1 (UNLABELLED), and the whole line is their path; -1 in a list
            is such a label too.

    Raises:
        UserError: names file, line number and text of a line without a path and a label in
            [0, num_classes); or the list has no videos, or is no such file.
        OSError: the file cannot be read.
    """
    file = ListFile(Path(path), separator)
    labels = _Labels(file, num_classes, unlabelled)
    root = os.path.dirname(path)
    files = FileList.from_rows(map(labels.read, file.rows()), os.path.expanduser(prefix), root)
    labels.finish()
    if not len(files):
        raise UserError(f"{path} lists no videos: it needs a line 'path{separator}label' each")
    if file.is_lines:
        files = _without_middle(files, file)
    return files.noting(*_two_places(files, file))


def find_list(folder: str | Path, split: str) -> Path:
    """Returns the list of a split: train.csv, .txt, .tsv or .json; train.csv if none is there."""
    paths = [Path(folder) / f"{split}{ending}" for ending in _ENDINGS]
    return next((path for path in paths if path.is_file()), paths[0])


def names_beside(path: str | Path, separator: str = " ") -> list[str] | None:
    """Returns the names that the labels of a list may be: class_names.json, words in train.csv."""
    path = Path(path)
    if (given := path.with_name("class_names.json")).is_file():
        return class_names(given)
    train = find_list(path.parent, "train")
    rows = ListFile(train if train.is_file() else path, separator).rows()
    words: set[str] = set()
    for row in rows:
        # "1.0" and "-1" are numbers that went wrong, in pandas for example, and no class names.
        if row.label is None or _NUMBER.fullmatch(row.label) or is_video_name(row.label):
            return None
        words.add(row.label)
    return sorted(words) or None


def label_findings(
    labels: np.ndarray, num_classes: int, where: object, training: bool
) -> Iterator[Finding]:
    """Yields what is unlikely about the labels of a list.

    That is no error: a subset of Kinetics keeps the labels of the whole, of which it need not have
    the first, and a network with outputs to spare learns the rest as well.
    """
    found = np.unique(labels)
    if found.tolist() == [UNLABELLED]:
        yield Finding(
            logging.WARNING,
            f"{where} has no labels: predictions.csv has the predicted class of each video, and "
            "there is no accuracy",
        )
    elif len(found) > 1 and found.tolist() == list(range(1, len(found) + 1)):
        yield Finding(
            logging.WARNING,
            f"{where}: the labels run from 1 to {len(found)} and are never 0, but labels count "
            "from 0. Unless class 0 has no videos on purpose, subtract 1 from each, and set "
            f"MODEL.NUM_CLASSES {len(found)}",
        )
    elif training and len(found) < num_classes:
        absent = [str(label) for label in np.setdiff1d(np.arange(num_classes), found)]
        cure = ""
        if len(found) == found[-1] + 1:
            cure = f"; MODEL.NUM_CLASSES {len(found)} would fit the list"
        yield Finding(
            logging.WARNING,
            f"{where} has videos of {len(found)} of the {num_classes} classes of "
            f"MODEL.NUM_CLASSES; none of {first_few(absent)}{cure}",
        )


class _Labels:
    """Turns rows into paths and numbers."""

    def __init__(self, file: ListFile, num_classes: int | None, unlabelled: str) -> None:
        self.file, self.num_classes, self.unlabelled = file, num_classes, unlabelled
        self.names: dict[str, int] | None = None
        self.problem: UserError | None = None  # of the first row without a label
        self.any_labelled = False

    def read(self, row: Row) -> tuple[str, int]:
        path, label, problem = row.path, UNLABELLED, ""
        if row.label is None:
            problem = f"expected 'path{self.file.separator}label'{self._separated()}"
        elif is_number(row.label):
            label, problem = self._number(row)
        else:
            label, problem = self._of_name(row.label)
        if not problem:
            self.any_labelled = True
        else:
            path = row.path if row.label == "-1" else self._whole_path(row)
            self.problem = self.problem or _error(row, problem)
            if self.unlabelled == "refuse":
                raise self.problem
        if not path:
            raise _error(row, "the path is missing")
        if len(path) > _MAX_PATH_BYTES // 4 and len(os.fsencode(path)) > _MAX_PATH_BYTES:
            raise _error(
                row,
                f"the path has {len(path)} characters, more than a system opens: a line break may "
                "be missing",
            )
        return path, label

    def finish(self) -> None:
        if self.problem and self.unlabelled == "all" and self.any_labelled:
            raise self.problem

    def _number(self, row: Row) -> tuple[int, str]:
        assert row.label is not None
        if len(row.label) <= _MAX_DIGITS:
            label = int(row.label)
            if self.num_classes is None or label < self.num_classes:
                return label, ""
        if self.unlabelled == "any":  # a path that ends in a number
            return UNLABELLED, f"no label: {row.label[:40]}"
        raise _error(
            row,
            f"the label must be below MODEL.NUM_CLASSES, {self.num_classes}; labels count from 0"
            if self.num_classes
            else f"the label has {len(row.label)} digits",
        )

    def _of_name(self, label: str) -> tuple[int, str]:
        if self.names is None:
            names = names_beside(self.file.path, self.file.separator) or []
            self.names = {name: number for number, name in enumerate(names)}
            if self.num_classes is not None and len(names) > self.num_classes:
                raise UserError(
                    f"{self.file.path}: there are {len(names)} class names, but MODEL.NUM_CLASSES "
                    f"is {self.num_classes}: set MODEL.NUM_CLASSES {len(names)}"
                )
        if label in self.names:
            return self.names[label], ""
        return UNLABELLED, (
            f"the label must be an integer from 0, got {label[:200]!r} (or a name of "
            f"class_names.json beside the list){self._separated()}"
        )

    def _whole_path(self, row: Row) -> str:
        """Returns the path of a row without a label: the row, unless only a part is a file."""
        root = self.file.path.parent
        if row.label is None or is_video_name(row.label) or not row.path:
            return row.whole
        exists = [os.path.exists(p) or os.path.exists(root / p) for p in (row.whole, row.path)]
        return row.path if exists == [False, True] else row.whole

    def _separated(self) -> str:
        if not self.file.is_lines:
            return ""
        return f" (DATA.PATH_LABEL_SEPARATOR {self.file.separator!r})"


def _error(row: Row, problem: str) -> UserError:
    text = row.text if len(row.text) <= 300 else f"{row.text[:300]}..."
    text = text.encode(errors="surrogateescape").decode(errors="replace")
    return UserError(f"{row.where}: {problem}; the line is {text!r}")


def _without_middle(files: FileList, file: ListFile) -> FileList:
    """Returns the list without the field between path and label, which PySlowFast ignores.

    A path may hold a blank as well. So there is such a field only if every line has one, and the
    paths with it are no files, while those without it are, or it is a number in every line.
    """
    separator = None if file.separator == " " else file.separator

    def fields(index: int) -> list[str]:
        return [field.strip() for field in files.listed(index).split(separator)]

    def short(indices: range) -> FileList:
        rows = ((fields(index)[0], int(files.labels[index])) for index in indices)
        return FileList.from_rows(rows, files.prefix, files.root)

    def has_one(index: int) -> bool:
        return len(fields(index)) == 2 and files.labels[index] != UNLABELLED

    # A few lines and the disk answer for nearly all lists. Only where they do not, all are read.
    probed = range(min(_PROBED, len(files)))
    if not all(map(has_one, probed)) or any(os.path.exists(files.path(i)) for i in probed):
        return files
    few = short(probed)
    is_known = any(os.path.isfile(few.path(index)) for index in probed)
    if not is_known and not all(is_number(fields(index)[1]) for index in probed):
        return files
    for index in range(len(files)):
        if not has_one(index) or not (is_known or is_number(fields(index)[1])):
            return files
    text = f"{file.path}: the field between path and label is left out, as in PySlowFast"
    return short(range(len(files))).noting(Finding(logging.INFO, text))


def _two_places(files: FileList, file: ListFile) -> Iterator[Finding]:
    """Finds a relative path that is a file both in the current folder and beside the list."""
    if files.prefix:
        return
    for index in range(min(_PROBED, len(files))):
        path = files.path(index)
        beside = os.path.join(files.root, path)
        if not os.path.isabs(path) and os.path.exists(path) and os.path.exists(beside):
            if not os.path.samefile(path, beside):
                yield Finding(
                    logging.WARNING,
                    f"{file.path}: {path} is a file in the current folder, which is taken, and "
                    "another one beside the list: set DATA.PATH_PREFIX to the folder that is meant",
                )
            return
