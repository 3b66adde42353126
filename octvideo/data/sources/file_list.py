"""The files and labels of a split, in little memory."""

import logging
import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

logger = logging.getLogger("octvideo")

UNLABELLED = -1


class Finding(NamedTuple):
    """What a reader of lists has to say, with a level of `logging`."""

    level: int
    text: str


@dataclass(frozen=True, eq=False)
class FileList:
    """Paths and labels of many files, in three arrays: 650,000 videos take about 50 MB.

    Build it with `from_rows` or `read_list`. prefix and root: see `path`. findings: what was
    noticed while it was read, for `report`.
    """

    text: bytes  # the paths, one after another
    ends: np.ndarray  # int64 (N,): where each ends in text
    labels: np.ndarray  # int64 (N,)
    prefix: str = ""
    root: str = ""
    findings: tuple[Finding, ...] = ()

    @classmethod
    def from_rows(
        cls, rows: Iterable[tuple[str, int]], prefix: str = "", root: str = ""
    ) -> "FileList":
        text, ends, labels = bytearray(), array("q"), array("q")
        for path, label in rows:
            text += path.encode("utf-8", "surrogateescape")
            ends.append(len(text))
            labels.append(label)
        return cls(bytes(text), np.array(ends), np.array(labels), prefix, root)

    def __len__(self) -> int:
        return len(self.ends)

    def listed(self, index: int) -> str:
        """Returns the path of file `index` as the list has it."""
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].decode("utf-8", "surrogateescape")

    def path(self, index: int) -> str:
        """Returns where file `index` is: prefix joined with the path of the list.

        Without a prefix a relative path counts from the current folder, as in PySlowFast, and
        where there is no such file, from `root` (the folder of the list). ``~`` is a home folder.
        Where a path with backslashes is of no file, they are taken for slashes.
        """
        path = self.listed(index)
        if path.startswith("~") and not os.path.exists(path):
            path = os.path.expanduser(path)
        if "\\" in path and not os.path.exists(found := self._placed(path)):
            slashed = self._placed(path.replace("\\", "/"))
            return slashed if os.path.exists(slashed) else found
        return self._placed(path)

    def _placed(self, path: str) -> str:
        if self.prefix:
            return os.path.join(self.prefix, path)
        if os.path.isabs(path) or os.path.exists(path):
            return path
        return os.path.join(self.root, path)

    def noting(self, *findings: Finding) -> "FileList":
        """Returns the same list with more findings."""
        return replace(self, findings=(*self.findings, *findings))

    def report(self) -> None:
        """Logs the findings."""
        for level, text in self.findings:
            logger.log(level, text)

    def paths(self) -> list[str]:
        return [self.path(index) for index in range(len(self))]
