"""The result of a test: the scores of every view of every video, and the files made from them."""

import logging
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from octvideo.data.sources.lists import UNLABELLED
from octvideo.distributed.collectives import all_gather_objects, gather_objects, world_size
from octvideo.engine.confusion import (
    confusion_matrix,
    confusions,
    mean_class_accuracy,
    write_class_accuracy,
    write_confusion_matrix,
    write_confusions,
)
from octvideo.engine.meters import top_k_correct
from octvideo.utils.errors import UserError
from octvideo.utils.files import whole_file, write_csv

logger = logging.getLogger("octvideo")

ROWS_AT_ONCE = 1024  # videos on the way between processes; 48 KB each with 30 views, 400 classes
SHOWN_CLASSES = 5  # of each video, in predictions.csv


class ScoreTable:
    """Holds ``scores[video, view, class]``, float32. A video has all its views, or is missing.

    Only rows that are put take memory; until then they are the system's zero pages.
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
        """Collects the scores of all processes in the main one, in parts; all have to call it."""
        mine = np.flatnonzero(self.scored)
        rows = max(1, ROWS_AT_ONCE // world_size())
        for start in range(0, max(all_gather_objects(len(mine))), rows):
            part = mine[start : start + rows]
            parts = gather_objects((part, self.scores[part])) or []
            for videos, scores in parts[1:]:  # without the main one's own
                for video, row in zip(videos, scores, strict=True):
                    self.put(video, row)

    def ensemble(self, method: str) -> np.ndarray:
        """Returns ``sum`` or ``max`` over the views: (num_videos, num_classes)."""
        return self.scores.sum(axis=1) if method == "sum" else self.scores.max(axis=1)

    def save(self, path: Path, paths: Sequence[str], method: str = "sum") -> None:
        """Writes a NumPy archive: scores, labels, scored and the paths of the videos.

        If the name ends in ``.pkl``, writes what PySlowFast does: a pickle of two tensors, the
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


def write_predictions(
    path: Path,
    paths: Sequence[str],
    table: ScoreTable,
    scores: np.ndarray,
    names: Sequence[str],
) -> None:
    """Writes a csv with a line for each video: path, label, and the five likeliest classes by name.

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


@dataclass(frozen=True)
class Report:
    """Makes the result of a test from its score table, in ``folder``.

    ensemble: of the views, "sum" or "max". save_as: a file for the score table, beside the others;
    "" for none. kind: what the test is of, in the log.
    """

    folder: Path
    ensemble: str = "sum"
    save_as: str = ""
    kind: str = "videos"

    def __call__(
        self, table: ScoreTable, paths: list[str], names: list[str]
    ) -> tuple[Mapping[str, float], str]:
        """Writes the files of a test and logs its accuracies over the videos that were scored.

        A list without labels has scores, and no accuracies; nor has a test with scores that are
        not finite.

        Returns:
            The accuracies (percent) and counts, and what is wrong with the scores, "" for nothing.

        Raises:
            UserError: no video could be scored, or a file cannot be written.
        """
        scored = int(table.scored.sum())
        if not scored:
            raise UserError(f"none of the {len(paths)} {self.kind} of the test could be read")
        scores = table.ensemble(self.ensemble)
        lost = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        counts: dict[str, int] = {
            "num_videos": scored,
            "num_missing": len(paths) - scored,
            "num_nonfinite": len(lost),
            "num_views": table.scores.shape[1],
        }
        self._write(lambda: self._write_scores(table, scores, paths, names))
        if len(lost):
            return counts, (
                f"the scores of {len(lost)} of {scored} {self.kind} are nan or inf, so there is no "
                f"accuracy; the first is {paths[lost[0]]}, predictions.csv names all. Set "
                "TEST.PRECISION fp32 if it is not, or test an earlier checkpoint"
            )
        if (table.labels == UNLABELLED).all():
            text = "%d views of %d %s, %d missing: no labels, so no accuracy; see predictions.csv"
            logger.info(text, counts["num_views"], scored, self.kind, counts["num_missing"])
            return counts, ""
        return {**self._accuracies(table, scores, counts, names), **counts}, ""

    def _accuracies(
        self, table: ScoreTable, scores: np.ndarray, counts: dict[str, int], names: list[str]
    ) -> dict[str, float]:
        labels, best = table.labels[table.scored], scores[table.scored]
        top1, top5 = top_k_correct(torch.from_numpy(best), torch.from_numpy(labels)).tolist()
        matrix = confusion_matrix(labels, best.argmax(axis=1), scores.shape[1])
        accuracies = {
            "top1_acc": 100 * top1 / len(labels),
            "top5_acc": 100 * top5 / len(labels),
            "mean_class_acc": 100 * mean_class_accuracy(matrix),
        }
        summary = self._summary(accuracies, counts, len(names))
        logger.info(summary)
        if worst := confusions(matrix)[:3]:
            totals = matrix.sum(axis=1)
            pairs = [f"{names[t]} as {names[p]} ({n} of {totals[t]})" for t, p, n in worst]
            logger.info("Most frequent confusions: %s", "; ".join(pairs))
        self._write(lambda: self._write_confusions(matrix, names, summary))
        return accuracies

    def _summary(
        self, accuracies: dict[str, float], counts: dict[str, int], num_classes: int
    ) -> str:
        views, missing = counts["num_views"], counts["num_missing"]
        top5 = f"top-5 {accuracies['top5_acc']:.2f} %, " if num_classes > 5 else ""
        return (
            f"{views} view{'s' if views > 1 else ''}: top-1 {accuracies['top1_acc']:.2f} %, {top5}"
            f"mean over classes {accuracies['mean_class_acc']:.2f} % of {counts['num_videos']} "
            f"{self.kind}" + (f"; {missing} missing" if missing else "")
        )

    def _write_scores(
        self, table: ScoreTable, scores: np.ndarray, paths: list[str], names: list[str]
    ) -> None:
        if self.save_as:
            path = self.folder / self.save_as
            table.save(path, paths, self.ensemble)
            logger.info("Scores are in %s", path)
        mean = scores / table.scores.shape[1] if self.ensemble == "sum" else scores
        write_predictions(self.folder / "predictions.csv", paths, table, mean, names)

    def _write_confusions(self, matrix: np.ndarray, names: list[str], title: str) -> None:
        write_class_accuracy(matrix, self.folder / "class_accuracy.csv", names)
        write_confusions(matrix, self.folder / "confusions.csv", names)
        write_confusion_matrix(matrix, self.folder / "confusion_matrix.png", names, title)

    @staticmethod
    def _write(write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
