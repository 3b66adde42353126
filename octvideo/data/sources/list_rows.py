"""The rows of a list file, whatever its form: lines, a csv with a header, or JSON."""

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from octvideo.data.sources.folders import VIDEO_ENDINGS
from octvideo.utils.errors import UserError

# What the header of a csv calls its columns; the first of these that it has counts.
_PATHS = ("path", "video_path", "file_path", "filepath", "clip_path", "image_path", "file",
          "filename", "file_name", "video", "video_name", "clip", "image")  # fmt: skip
_LABELS = ("label", "label_id", "class_id", "class_index", "target", "class", "category",
           "class_name", "label_name", "action")  # fmt: skip
_JSON_FORMS = '[["path", label], ...], [{"path": ..., "label": ...}, ...] or {"path": label, ...}'


class Row(NamedTuple):
    """What a list says of a video, as it stands there."""

    where: str  # file and line
    path: str
    label: str | None  # None: there is none
    whole: str  # the path where what looks like a label turns out to be part of it
    text: str  # to be shown in errors


class ListFile:
    """A list whose form is known: separator is what stands between a path and its label.

    Raises UserError for a csv or JSON file that is broken, OSError for one that cannot be read.
    """

    def __init__(self, path: Path, separator: str = " ") -> None:
        self.path, self.separator = path, separator
        self.columns: tuple[int, int | None] | None = None
        self.is_json = path.suffix.lower() == ".json"
        if self.is_json:
            return
        with _open(path) as file:
            first = next(_data_lines(file), (0, ""))[1]
        candidates = ("\t", ",", ";", " ") if separator == " " else (separator,)
        for candidate in candidates:
            if len(candidate) == 1 and (columns := _header(_fields(first, candidate))):
                self.columns, self.separator = columns, candidate
                return
        for means_label in (is_number, _is_word):
            for candidate in candidates:
                name, label = _path_and_label(first, candidate)
                if name and label and means_label(label):
                    self.separator = candidate
                    return

    @property
    def is_lines(self) -> bool:
        return not (self.is_json or self.columns)

    def rows(self) -> Iterator[Row]:
        if self.is_json:
            yield from self._json_rows()
        elif self.columns:
            yield from self._csv_rows(*self.columns)
        else:
            yield from self._line_rows()

    def _line_rows(self) -> Iterator[Row]:
        with _open(self.path) as file:
            for number, line in _data_lines(file):
                path, label = _path_and_label(line, self.separator)
                yield Row(f"{self.path}, line {number}", path, label, line, line)

    def _csv_rows(self, path_column: int, label_column: int | None) -> Iterator[Row]:
        with _open(self.path) as file:
            reader = csv.reader(file, delimiter=self.separator, skipinitialspace=True)
            seen_header = False
            try:
                for fields in reader:
                    if not any(map(str.strip, fields)) or fields[0].startswith("#"):
                        continue
                    if not seen_header:
                        seen_header = True
                        continue
                    where, text = f"{self.path}, line {reader.line_num}", ",".join(fields)
                    fields += [""] * (1 + max(path_column, label_column or 0) - len(fields))
                    path = fields[path_column].strip()
                    label = None if label_column is None else fields[label_column].strip() or None
                    yield Row(where, path, label, path, text)
            except csv.Error as error:
                raise UserError(f"{self.path}, line {reader.line_num}: {error}") from error

    def _json_rows(self) -> Iterator[Row]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path} is not a JSON file: {error}") from error
        entries = list(content.items()) if isinstance(content, dict) else content
        if not isinstance(entries, list):
            raise UserError(f"{self.path} is not a list of videos: expected {_JSON_FORMS}")
        for number, entry in enumerate(entries):
            where = f"{self.path}, entry {number}"
            path, label = _of_entry(entry)
            if not isinstance(path, str) or isinstance(label, (bool, float, list, dict)):
                raise UserError(f"{where}: expected {_JSON_FORMS}, got {str(entry)[:200]!r}")
            yield Row(where, path, None if label is None else str(label), path, str(entry))


def is_number(label: str) -> bool:
    return label.isascii() and label.isdigit()


def is_video_name(text: str) -> bool:
    """Tests whether a text is a piece of a path rather than a label."""
    return "/" in text or Path(text).suffix.lower() in VIDEO_ENDINGS


def _of_entry(entry: object) -> tuple[object, object]:
    """Returns path and label of an entry of a JSON list; (None, None) if it is none."""
    if isinstance(entry, dict):
        keys = {str(key).lower(): value for key, value in entry.items()}
        path = next((keys[name] for name in _PATHS if name in keys), None)
        return path, next((keys[name] for name in _LABELS if name in keys), None)
    if isinstance(entry, (list, tuple)) and len(entry) == 2:
        return entry[0], entry[1]
    return (entry, None) if isinstance(entry, str) else (None, None)


def _open(path: Path) -> TextIO:
    """Opens a list as text: UTF-8, or UTF-16 with its mark, as spreadsheets export it.

    Only a line break ends a line (a carriage return in files that have nothing else): a name may
    hold U+2028. Names are bytes: those that are not UTF-8 survive.
    """
    with open(path, "rb") as file:
        start = file.read(65536)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return open(path, encoding="utf-16", newline="")
    only_returns = b"\r" in start and b"\n" not in start
    newline = "\r" if only_returns else "\n"
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _data_lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Yields number and text of the lines that are neither blank nor comments."""
    for number, line in enumerate(file, 1):
        line = _unquoted(line)
        if line and not line.startswith("#"):
            yield number, line


def _unquoted(text: str) -> str:
    """Removes blanks around a text, and quotes that hold the whole of it."""
    text = text.strip(" \t\r\n")
    if len(text) > 1 and text[0] == text[-1] == '"':
        inner = text[1:-1].replace('""', "")
        if '"' not in inner:
            return text[1:-1].replace('""', '"').strip(" \t")
    return text


def _path_and_label(line: str, separator: str) -> tuple[str, str | None]:
    """Splits a line at its last separator. The default one, a blank, may be a tab too."""
    place = line.rfind(separator)
    if separator == " ":
        place = max(place, line.rfind("\t"))
    if place < 0:
        return line, None
    return _unquoted(line[:place]), _unquoted(line[place + len(separator) :])


def _is_word(text: str) -> bool:
    return not is_video_name(text)


def _fields(line: str, separator: str) -> list[str]:
    return [_unquoted(field).lower() for field in line.split(separator)]


def _header(fields: Sequence[str]) -> tuple[int, int | None] | None:
    """Returns the columns of path and label if a line is a header; a lone "path" is one too."""
    path = next((fields.index(name) for name in _PATHS if name in fields), None)
    label = next((fields.index(name) for name in _LABELS if name in fields), None)
    if path is None or (label is None and fields != ["path"]):
        return None
    return path, label
