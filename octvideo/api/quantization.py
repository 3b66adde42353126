"""Exported networks in int8, and what that costs on a test."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from octvideo.api.conversion_views import Views, files_of
from octvideo.api.predict import ensemble, rows, views_of
from octvideo.data import VideoError
from octvideo.data.sources.file_list import UNLABELLED
from octvideo.data.sources.lists import read_list
from octvideo.deploy import ExportedNetwork, format_of, open_exported
from octvideo.deploy.files import megabytes
from octvideo.deploy.form import inputs_of
from octvideo.deploy.int8 import Quantiser, int8_layers
from octvideo.deploy.write import staged
from octvideo.engine.scorer import Scorer
from octvideo.utils.errors import UserError


@dataclass(frozen=True)
class Quantized:
    """What the quantisation of a file cost.

    kind: "accuracy", the percentage of files of a test whose first class is the label; or
    "agreement", of those whose first class is the float file's. before, after, all_layers: that of
    the float file, of the result, and with all layers in int8. int8_layers of ``layers`` have
    weights in int8. megabytes_before, megabytes: of the files.
    """

    kind: str
    files: int
    before: float
    after: float
    all_layers: float
    int8_layers: int
    layers: int
    megabytes_before: float
    megabytes: float

    def to_markdown(self) -> str:
        lines = [
            f"| | layers in int8 | MB | {self.kind} on {self.files} files, % |",
            "|---|---|---|---|",
            f"| float | 0 of {self.layers} | {self.megabytes_before:.2f} | {self.before:.2f} |",
        ]
        if self.all_layers != self.after:
            lines.append(
                f"| all in int8 | {self.layers} of {self.layers} | | {self.all_layers:.2f} |"
            )
        some = f"{self.int8_layers} of {self.layers}"
        lines.append(f"| written | {some} | {self.megabytes:.2f} | {self.after:.2f} |")
        return "\n".join(lines)


def quantize(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    *,
    test: str | Path | None = None,
    separator: str = " ",
    prefix: str = "",
    max_drop: float = 0.5,
    clips: int = 100,
    fast: bool = False,
    batch_size: int = 8,
    allow_partial: bool = False,
) -> Quantized:
    """Writes an exported network with weights and layers in int8, which works like any other.

    Views of some files show which values occur in the network; the same files give the same
    result. If the first class suffers more than ``max_drop``, layers return to float, those to
    which the scores are most sensitive first (in up to 16 groups of neighbours).

    Args:
        source: a file of ``octvideo.export``, *.onnx or *.xml.
        path: the file to write, of the same format.
        files: videos (for an image network also images) or folders, without labels. Without
            ``test``, every fifth file is held out and the agreement with ``source`` measured on it.
        test: a list of files, with or without labels; separator, prefix: of its lines.
        max_drop: points of accuracy (or agreement), in percent of the test's files.
        clips: views to learn from, spread over the files.
        fast: one view of each file instead of all, to learn from and in the test.
        batch_size: views in a forward pass.
        allow_partial: use the frames of a damaged video that decode.

    Raises:
        UserError: a package is missing, no file can be read, or the limit cannot be kept.
        VideoError: a file of the test cannot be read.
    """
    path, network = Path(path), open_exported(source)
    format_of(path, format_of(source))
    if not 0 <= max_drop <= 100 or clips < 1:
        raise UserError(f"max_drop must be 0 to 100 and clips at least 1: {max_drop}, {clips}")
    protocol = replace(network.protocol, allow_partial=allow_partial)
    found = files_of(files, network)
    found = found[:: -(-len(found) // (clips * 5 // 4 + 1))]  # those of which there is a view
    views = Views(found, protocol, fast, 1, torch.device("cpu"))
    calibration = [inputs_of(clip, network.record) for clip in views.sample(clips)]
    measured, labels = views.measured, None
    if test is not None:
        measured, labels = _read_test(test, separator, prefix, network.record.num_classes)
    judge = _Judge(network, measured, labels, fast, batch_size, allow_partial)
    quantiser = Quantiser(network, calibration)
    with staged(path) as part:
        quantiser.write(part)
        everywhere = judge.percent(open_exported(part))
        after: float | None = everywhere
        if not judge.keeps(everywhere, max_drop):
            after = _within(quantiser, judge, part, max_drop)
        if after is None:
            raise UserError(
                f"{path} would lose more than {max_drop:g} points: {judge.kind} on "
                f"{len(judge.files)} files falls from {judge.before:.2f} to {everywhere:.2f} % "
                "with all layers in int8, and by too much with a few of them. Allow more "
                "(--max-drop), or give other --files to learn from; nothing is written"
            )
        (count, total), size = int8_layers(part), megabytes(part)
    return Quantized(
        kind=judge.kind,
        files=len(judge.files),
        before=round(judge.before, 2),
        after=round(after, 2),
        all_layers=round(everywhere, 2),
        int8_layers=count,
        layers=total,
        megabytes_before=round(megabytes(network.path), 3),
        megabytes=round(size, 3),
    )


def _read_test(
    test: str | Path, separator: str, prefix: str, num_classes: int
) -> tuple[list[str], np.ndarray | None]:
    """Returns the paths of a list of files and their labels; None: some line has none."""
    listed = read_list(test, separator, prefix, num_classes, unlabelled="all")
    paths = [listed.path(index) for index in range(len(listed))]
    return paths, None if UNLABELLED in listed.labels else listed.labels


def _within(quantiser: Quantiser, judge: "_Judge", path: Path, max_drop: float) -> float | None:
    """Writes the file with the fewest groups of layers in float that stays within the limit.

    Returns its accuracy, or None if there is no such file.
    """
    order = quantiser.by_sensitivity(path)
    low, high = 0, len(order)
    measured: dict[int, float] = {}
    while high - low > 1:
        middle = (low + high) // 2
        quantiser.write(path, [*chain(*order[:middle])])
        measured[middle] = judge.percent(open_exported(path))
        low, high = (low, middle) if judge.keeps(measured[middle], max_drop) else (middle, high)
    if high not in measured:
        return None
    quantiser.write(path, [*chain(*order[:high])])  # that of another number may have been the last
    return measured[high]


class _Judge:
    """Measures how often the first class of a file is right, or as in float."""

    def __init__(
        self,
        network: ExportedNetwork,
        files: Sequence[str],
        labels: np.ndarray | None,
        fast: bool,
        batch_size: int,
        allow_partial: bool,
    ) -> None:
        protocol = replace(network.protocol, allow_partial=allow_partial, precision="fp32")
        self.files, self.protocol, self.batch_size = files, protocol, batch_size
        self._items = views_of(files, protocol, fast)
        self.kind = "agreement" if labels is None else "accuracy"
        scores = self._scores(network)
        first = np.array([each.argmax() for each in scores])
        self.labels = first if labels is None else labels
        self.before = 100 * float((first == self.labels).mean())

    def keeps(self, percent: float, max_drop: float) -> bool:
        """Returns whether that is within the limit of the float file's."""
        return self.before - percent <= max_drop + 1e-9

    def percent(self, network: ExportedNetwork) -> float:
        """Returns the share of files that are right, in percent."""
        right = [s.argmax() == y for s, y in zip(self._scores(network), self.labels, strict=True)]
        return 100 * float(np.mean(right))

    def _scores(self, network: ExportedNetwork) -> list[np.ndarray]:
        scorer = Scorer(network, self.protocol, self.batch_size)
        found = []
        for index in range(len(self.files)):
            item = self._items[index]
            if item["bad"]:
                raise VideoError(*item["bad"][0])
            found.append(ensemble(rows(scorer, item), self.protocol))
        return found
