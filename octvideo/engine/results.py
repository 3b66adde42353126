"""The result of a test: scores of every view of every video, and what is told about them."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from octvideo.utils.dist import all_gather_objects, gather_objects, world_size
from octvideo.utils.files import whole_file

logger = logging.getLogger("octvideo")

ROWS_AT_ONCE = 1024  # videos on the way between processes; 48 KB each with 30 views, 400 classes


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

    def save(self, path: Path, paths: Sequence[str]) -> None:
        """A NumPy archive: scores, labels, scored and the paths of the videos."""
        with whole_file(path) as part, open(part, "wb") as file:
            np.savez(
                file, scores=self.scores, labels=self.labels, scored=self.scored, paths=list(paths)
            )


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, a row for each true class and a column for each predicted one."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def write_class_accuracy(matrix: np.ndarray, path: Path) -> None:
    """A csv with a line for each class: its number of videos and top-1 accuracy in percent."""
    with whole_file(path) as part, open(part, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "num_videos", "top1_acc"])
        for label, row in enumerate(matrix):
            count = int(row.sum())
            accuracy = f"{100 * row[label] / count:.2f}" if count else ""
            writer.writerow([label, count, accuracy])


def write_confusion_matrix(matrix: np.ndarray, path: Path) -> None:
    """A PNG, rows normalised; needs matplotlib, and says so where it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.info('No %s: it needs matplotlib (pip install "octvideo[plot]")', path.name)
        return
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(len(matrix) * 0.4 + 2, 5, 20))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(matrix) <= 20:
        axes.set(xticks=range(len(matrix)), yticks=range(len(matrix)))
        for row, column in np.argwhere(matrix):
            color = "white" if share[row, column] > 0.5 else "black"
            count = matrix[row, column]
            axes.text(column, row, count, ha="center", va="center", color=color)
    with whole_file(path) as part, open(part, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
