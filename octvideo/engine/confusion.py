"""Confusions of a test: counts, a list of the worst, an image."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from octvideo.utils.extras import install_command
from octvideo.utils.files import whole_file, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger("octvideo")

COUNTS_UP_TO = 20  # classes; the image of more has no numbers of videos
NAMES_UP_TO = 500  # classes; the image of more has no names


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns counts, a row for each true class and a column for each predicted one."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Returns the fraction of each class's videos that was recognised; nan for no videos."""
    counts = matrix.sum(axis=1)
    return np.where(counts > 0, matrix.diagonal() / np.maximum(counts, 1), np.nan)


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """Returns the mean over the classes that have videos; every class counts alike."""
    return float(np.nanmean(class_accuracy(matrix)))


def confusions(matrix: np.ndarray) -> list[tuple[int, int, int]]:
    """Returns (true class, predicted class, number of videos), the most frequent first."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    pairs = [(int(t), int(p), int(wrong[t, p])) for t, p in np.argwhere(wrong)]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[2] / matrix[pair[0]].sum(), pair))


def write_class_accuracy(matrix: np.ndarray, path: Path, names: Sequence[str]) -> None:
    """Writes a csv with a line for each class: number of videos and top-1 accuracy in percent."""
    shares = class_accuracy(matrix)
    rows = [
        [label, names[label], int(row.sum()), f"{100 * share:.2f}" if row.any() else ""]
        for label, (row, share) in enumerate(zip(matrix, shares, strict=True))
    ]
    write_csv(path, [["label", "class", "num_videos", "top1_acc"], *rows])


def write_confusions(matrix: np.ndarray, path: Path, names: Sequence[str]) -> None:
    """Writes a csv with a line for each pair of confused classes, the most frequent first.

    ``share``: percent of the videos of the true class.
    """
    totals = matrix.sum(axis=1)
    rows = [
        [names[true], names[predicted], count, f"{100 * count / totals[true]:.2f}"]
        for true, predicted, count in confusions(matrix)
    ]
    write_csv(path, [["class", "predicted", "num_videos", "share"], *rows])


def write_confusion_matrix(
    matrix: np.ndarray, path: Path, names: Sequence[str], title: str = ""
) -> None:
    """Writes a PNG with normalised rows, or logs that matplotlib is not installed.

    The colour scale is logarithmic, so that a confusion of a few percent shows beside a diagonal
    of ninety. Confusions that never happened are blank.
    """
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError:
        logger.info("No %s: it needs matplotlib (%s)", path.name, install_command("plot"))
        return
    count = len(matrix)
    percent = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cell = 0.42 if count <= COUNTS_UP_TO else 0.2 if count <= 60 else 0.085  # inches
    side = min(count * cell, 42)
    longest = max(map(len, names)) if count <= NAMES_UP_TO else 4
    size = _font_size(cell)
    margin = 0.5 + longest * size * 0.009
    # Room for the title and the colour bar, which small matrices need as much as large ones.
    figure = Figure(figsize=(max(side, 2.5) + margin + 1.5, max(side, 2.5) + margin + 0.8))
    axes = figure.subplots()
    norm = LogNorm(vmin=1, vmax=100, clip=True)
    image = axes.imshow(
        np.ma.masked_equal(percent, 0), norm=norm, cmap="magma_r", interpolation="nearest"
    )
    bar = figure.colorbar(image, fraction=0.04, pad=0.02, ticks=[1, 2, 5, 10, 20, 50, 100])
    bar.ax.set_yticklabels(["1 or less", "2", "5", "10", "20", "50", "100"])
    bar.set_label("% of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title, wrap=True)
    if count <= NAMES_UP_TO:
        axes.set_xticks(range(count), [_plain(n) for n in names], rotation=90, fontsize=size)
        axes.set_yticks(range(count), [_plain(n) for n in names], fontsize=size)
    if count <= COUNTS_UP_TO:
        _write_counts(axes, matrix, percent)
    with whole_file(path) as part, open(part, "wb") as file:
        figure.savefig(file, format="png", dpi=100, bbox_inches="tight")


def _font_size(cell: float) -> float:
    """Returns the font size in points for rows of ``cell`` inches."""
    return min(10.0, 72 * cell * 0.8)


def _plain(name: str) -> str:
    """Returns a name with its dollar signs escaped, which would begin a formula."""
    return name.replace("$", r"\$")


def _write_counts(axes: "Axes", matrix: np.ndarray, percent: np.ndarray) -> None:
    for row, column in np.argwhere(matrix):
        color = "white" if percent[row, column] > 10 else "black"
        axes.text(column, row, matrix[row, column], ha="center", va="center", color=color)
