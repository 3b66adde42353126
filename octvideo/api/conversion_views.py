"""The files that a conversion learns from and is measured on, as the network sees them."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from octvideo.api.conversion_report import Agreement
from octvideo.api.inference import for_inference
from octvideo.api.predict import Video, check_finite, ensemble, rows, views_of
from octvideo.api.protocols import protocol_of
from octvideo.data.clips import AllViews, Item, view
from octvideo.data.protocol import Protocol
from octvideo.data.read.image import ENDINGS as IMAGE_ENDINGS
from octvideo.data.sources.folders import VIDEO_ENDINGS, video_files
from octvideo.engine.scorer import Scorer
from octvideo.models.classifier import Network
from octvideo.surgery.tuning import divergence
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")

HELD_OUT = 5  # every fifth file


def files_of(paths: Sequence[str | os.PathLike[str]], model: nn.Module) -> list[str]:
    """Returns the files, and those in the folders: videos, and for an image network also images."""
    endings = {*VIDEO_ENDINGS}
    if protocol_of(model).centre_crop is not None:
        endings |= {*IMAGE_ENDINGS}
    found: list[str] = []
    for path in map(Path, paths):
        found += video_files(path, endings) if path.is_dir() else [os.fspath(path)]
    return found


class Views:
    """Files that can be read, in two parts; iterating gives batches of views of those to learn.

    Attributes:
        learned, measured: the paths; one file alone is both.
        skipped: (path, reason) of those that cannot be read.
    """

    def __init__(
        self,
        files: Sequence[Video],
        settings: Protocol,
        fast: bool,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.settings, self.batch_size, self.device = settings, batch_size, device
        paths = list(dict.fromkeys(os.fspath(file) for file in files))
        if not paths:
            raise UserError("there are no files to learn from: name some videos or images")
        self.skipped: list[tuple[str, str]] = []
        self._items: AllViews = views_of(paths, settings, fast)
        good = [index for index in range(len(paths)) if self._is_readable(index)]
        if not good:
            raise UserError(
                f"none of {len(paths)} files can be read; {self.skipped[0][0]}: "
                f"{self.skipped[0][1]}"
            )
        self.is_held_out = len(good) > 1
        held_out = good[HELD_OUT - 1 :: HELD_OUT] or good[-1:]
        self._learned = [i for i in good if i not in held_out] or good
        self._measured = held_out
        self.learned = [paths[index] for index in self._learned]
        self.measured = [paths[index] for index in self._measured]

    def _is_readable(self, index: int) -> bool:
        bad = self._items[index]["bad"]
        if bad:
            logger.warning("%s: %s; the file is left out", *bad[0])
        self.skipped += bad
        return not bad

    def measured_items(self) -> Iterator[Item]:
        for index in self._measured:
            yield self._items[index]

    def __iter__(self) -> Iterator[Tensor]:
        """Yields batches (B, 3, [T,] S, S) that mix files; each file is read once for all views."""
        return self._batches(self._learned)

    def sample(self, count: int) -> list[Tensor]:
        """Returns batches of about ``count`` views, from as many files as possible."""
        files = self._learned[:: -(-len(self._learned) // count)]
        return [*self._batches(files, each=max(round(count / len(files)), 1))]

    def _batches(self, files: Sequence[int], each: int | None = None) -> Iterator[Tensor]:
        """Yields batches of all views of files, or of ``each`` of a file, spread over them."""
        for start in range(0, len(files), self.batch_size):
            items = [self._items[i] for i in files[start : start + self.batch_size]]
            frames = [self.settings.normalized(item["frames"].to(self.device)) for item in items]
            count = [item["clips"].shape[0] * item["crops"].shape[0] for item in items]
            chosen = [
                range(n) if each is None else np.unique(np.linspace(0, n - 1, each, dtype=int))
                for n in count
            ]
            for number in range(max(map(len, chosen))):
                views = [
                    self._view(item, pixels, int(places[number]))
                    for item, pixels, places in zip(items, frames, chosen, strict=True)
                    if number < len(places)
                ]
                for shape in dict.fromkeys(x.shape for x in views):  # images beside videos
                    yield torch.stack([x for x in views if x.shape == shape])

    def _view(self, item: Item, frames: Tensor, number: int) -> Tensor:
        clip, crop = divmod(number, len(item["crops"]))
        x = view(frames, item["clips"][clip], item["crops"][crop], item["size"])
        is_image = self.settings.centre_crop is not None and x.shape[1] == 1
        return x[:, 0] if is_image else x


class Judge:
    """Compares an octave network with the vanilla one, on the measured files."""

    def __init__(self, teacher: Network, files: Views) -> None:
        self.files = files
        self.activation = teacher.spec.head_activation
        self.wanted = self._scores(teacher)
        for path, scores in zip(files.measured, self.wanted, strict=True):
            check_finite(scores, "scores", path)

    @property
    def num_views(self) -> int:
        return sum(map(len, self.wanted))

    def __call__(self, step: str, student: nn.Module) -> Agreement:
        pairs = [*zip(self.wanted, self._scores(student), strict=True)]
        by_file = [self._class_of(w) == self._class_of(g) for w, g in pairs]
        wanted, got = (np.concatenate(scores) for scores in zip(*pairs, strict=True))
        got_logits, wanted_logits = (
            logits(torch.from_numpy(x).double(), self.activation) for x in (got, wanted)
        )
        agreement = Agreement(
            step,
            float((wanted.argmax(axis=1) == got.argmax(axis=1)).mean()),
            float(np.mean(by_file)),
            divergence(got_logits, wanted_logits, 1.0).item(),
        )
        logger.info("%s", agreement)
        return agreement

    def _class_of(self, scores: np.ndarray) -> int:
        return int(ensemble(scores, self.files.settings).argmax())

    def _scores(self, model: nn.Module) -> list[np.ndarray]:
        settings = self.files.settings
        network = for_inference(model, settings.precision)
        scorer = Scorer(network, settings, self.files.batch_size)
        return [rows(scorer, item) for item in self.files.measured_items()]


def logits(scores: Tensor, activation: str) -> Tensor:
    """Returns numbers whose softmax along the last axis gives what a network in evaluation gives.

    scores: (N, K), after the activation of the head. Of "sigmoid" the result is (N, K, 2): each
    class is, or is not.
    """
    if activation == "none":
        return scores
    least = torch.finfo(torch.float32).tiny  # what the network gives is not less, or 0
    log = scores.clamp_min(least).log()
    if activation == "softmax":
        return log
    return torch.stack([log, (1 - scores).clamp_min(least).log()], dim=-1)
