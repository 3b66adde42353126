"""The result of a test: scores of every view of every video, and the files made of them."""

import csv
import logging
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from octvideo.data.lists import UNLABELLED
from octvideo.distributed.collectives import all_gather_objects, gather_objects, world_size
from octvideo.utils.files import whole_file

logger = logging.getLogger("octvideo")

ROWS_AT_ONCE = 1024  # videos on the way between processes; 48 KB each with 30 views, 400 classes
SHOWN_CLASSES = 5  # of each video, in predictions.csv


class ScoreTable:
    """``scores[video, view, class]``, float32. A video is scored with all its views, or missing.

    Memory is taken by the rows that are put, as those never written to are the system's zeros.
    """

    def __init__(self, labels: np.ndarray, num_views: int, num_classes: int) -> None:
        self.labels = labels
        self.scores = np.zeros((len(labels), num_views, num_classes), np.float32)
        self.scored = np.zeros(len(labels), bool)

    def put(self, video: int, scores: np.ndarray) -> None:
        """Sets the (num_views, num_classes) scores of a video; each video once."""
        assert not self.scored[video], f"video {video} was scored before"
        self.scores[video] = scores
        self.scored[video] = True

    def gather(self) -> None:
        """Brings what all processes have scored to the main one, in parts; all have to call it."""
        mine = np.flatnonzero(self.scored)
        rows = max(1, ROWS_AT_ONCE // world_size())
        for start in range(0, max(all_gather_objects(len(mine))), rows):
            part = mine[start : start + rows]
            parts = gather_objects((part, self.scores[part])) or []
            for videos, scores in parts[1:]:  # without the main one's own
                for video, row in zip(videos, scores, strict=True):
                    self.put(video, row)

    def ensemble(self, method: str) -> np.ndarray:
        """``sum`` or ``max`` over the views: (num_videos, num_classes)."""
        return self.scores.sum(axis=1) if method == "sum" else self.scores.max(axis=1)

    def save(self, path: Path, paths: Sequence[str], method: str = "sum") -> None:
        """A NumPy archive: scores, labels, scored and the paths of the videos.

        Where the name ends in ``.pkl``, what PySlowFast writes: a pickle of two tensors, the
        ``method`` over the views, (num_videos, num_classes), and the labels, (num_videos,).
        Videos that could not be read have zeros in it.
        """
        with whole_file(path) as part, open(part, "wb") as file:
            if path.suffix == ".pkl":
                scores = torch.from_numpy(self.ensemble(method))
                pickle.dump([scores, torch.from_numpy(np.asarray(self.labels, np.int64))], file)
                return
            np.savez(
                file, scores=self.scores, labels=self.labels, scored=self.scored, paths=list(paths)
            )


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Paths may hold bytes that are not UTF-8; they are written as they are."""
    with (
        whole_file(path) as part,
        open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_predictions(
    path: Path,
    paths: Sequence[str],
    table: ScoreTable,
    scores: np.ndarray,
    names: Sequence[str],
) -> None:
    """A csv with a line for each video: path, label and the five likeliest classes, by name.

    ``note`` says why a video has no classes: it could not be read, or its scores are not finite.

    Args:
        scores: of each video, (num_videos, num_classes).
        names: of the classes, in label order.
    """
    count = min(SHOWN_CLASSES, scores.shape[1])
    head = [f"{word}{place}" for place in range(1, count + 1) for word in ("class", "score")]
    finite = np.isfinite(scores).all(axis=1)

    def rows() -> Iterable[list[object]]:
        yield ["path", "label", *head, "note"]
        for video, row in enumerate(scores):
            label = table.labels[video]
            line: list[object] = [paths[video], "" if label == UNLABELLED else names[label]]
            if table.scored[video] and finite[video]:
                best = np.argsort(-row, kind="stable")[:count]
                line += [cell for c in best for cell in (names[c], f"{row[c]:.6g}")]
                yield [*line, ""]
            else:
                why = "scores are not finite" if table.scored[video] else "could not be read"
                yield [*line, *[""] * len(head), why]

    write_csv(path, rows())
