"""Counts and names the videos that could not be read, and stops the run if they are many."""

import csv
import io
import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from octvideo.data.clips import Batch, Item
from octvideo.distributed.collectives import all_gather_objects, all_reduce, is_main, world_size
from octvideo.utils.console import printable
from octvideo.utils.errors import UserError
from octvideo.utils.files import write_whole

logger = logging.getLogger("octvideo")

HEADER = ("path", "reason", "split", "epoch")


class BadVideos:
    """The unreadable videos of a run, in the log and in ``OUTPUT_DIR/bad_videos.csv``.

    Each is named once, also with several processes, over passes and splits, and when a run resumes.
    The file has its path, the reason, and the split and epoch in which it was first met.

    Args:
        max_fraction: of the videos of a pass that may be unreadable; one may be, unless it is 0.
    """

    def __init__(self, folder: Path, max_fraction: float = 1.0) -> None:
        self.path = folder / "bad_videos.csv"
        self.max_fraction = max_fraction
        self._known = set(self._read()) if is_main() else set()  # they are in the file
        self._met: set[str] = set()  # in this run
        self._new: list[tuple[str, str, str, int]] = []
        self.begin("", 0, 0)

    def begin(self, split: str, epoch: int, num_videos: int) -> None:
        """Begins a pass through a list of ``num_videos``, in an epoch that counts from 1."""
        self.split, self.epoch, self.num_videos = split, epoch, num_videos
        self._failed = 0  # of this process, not shared yet
        self.failed = 0  # videos of this pass, of all processes

    def add(self, batch: Item | Batch) -> None:
        """Takes ``bad``, (path, reason) pairs, of a batch or of a video of a test."""
        self._failed += batch["num_bad"] if "num_bad" in batch else len(batch["bad"])
        for path, reason in batch["bad"]:
            if path not in self._met:
                self._met.add(path)
                self._new.append((path, " ".join(reason.split()), self.split, self.epoch))
        if world_size() == 1:
            self._name(self._take())

    def share(self) -> None:
        """Shares what is new with all processes, which call it together.

        Raises:
            UserError: more than ``max_fraction`` of the videos of this pass, and more than one,
                cannot be read. Raised on all processes.
        """
        failed, new = all_reduce(torch.tensor([self._failed, len(self._new)])).tolist()
        self.failed += failed
        self._failed = 0
        if new:
            self._name(row for rows in all_gather_objects(self._take()) for row in rows)
        allowed = max(self.max_fraction * self.num_videos, 1) if self.max_fraction else 0
        if self.failed > allowed:
            raise UserError(
                f"{self.failed} of the {self.num_videos} files of {self.split} cannot be read, "
                f"more than DATA.MAX_BAD_FRACTION ({self.max_fraction:g}) allows; they are in "
                f"{self.path}. Mend the files or DATA.PATH_PREFIX, leave them out (of videos, "
                "octvideo prepare writes such lists), or raise DATA.MAX_BAD_FRACTION"
            )

    def close(self) -> None:
        """Names what has not been named yet, at the end of a run, whatever ends it."""
        self._name(self._take())
        if self._met and is_main():
            logger.warning("Files that could not be read: %d, see %s", len(self._met), self.path)

    def _take(self) -> list[tuple[str, str, str, int]]:
        new, self._new = self._new, []
        return new

    def _name(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        if not is_main():
            return
        # Several processes may have met the same one.
        found = {row[0]: row for row in rows}
        self._met |= found.keys()
        fresh = [row for path, row in found.items() if path not in self._known]
        for path, reason, *_ in fresh:
            logger.warning("Unreadable file %s: %s", printable(path), printable(reason))
        self._known |= found.keys()
        if fresh:
            self._append(fresh)

    def _append(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        head = [] if self.path.exists() else [HEADER]
        try:
            with open(self.path, "a", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file, lineterminator="\n").writerows([*head, *rows])
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def _read(self) -> list[str]:
        """Returns the paths of an earlier run; removes a last line that was cut off."""
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                text = file.read()
            if text and not text.endswith("\n"):
                text = text[: text.rfind("\n") + 1]
                write_whole(self.path, text or ",".join(HEADER) + "\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from error
        return [row[0] for row in _rows(text) if row][1:]


def _rows(text: str) -> list[list[str]]:
    """Returns the rows of a csv with fields of any length; the module allows 131,072 characters."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    finally:
        csv.field_size_limit(limit)
