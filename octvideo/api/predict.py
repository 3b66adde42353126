"""Classes or features of one video, or of one image with an image network."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from torch import nn

from octvideo.api.inference import for_inference
from octvideo.api.loading import checkpoints_of, load
from octvideo.api.protocols import protocol_of
from octvideo.data import VideoError
from octvideo.data.clips import AllViews, Item
from octvideo.data.crash_safe_loader import Watch
from octvideo.data.labels import class_names as read_class_names
from octvideo.data.protocol import Protocol
from octvideo.data.read.image import is_image
from octvideo.data.read.video import check_backend
from octvideo.data.sources import FileList, source_of
from octvideo.engine.scorer import Features, Scorer
from octvideo.utils.errors import NonFiniteError, UserError

Video = str | os.PathLike[str]
Model = str | os.PathLike[str] | nn.Module


def predict(
    video: Video,
    model: Model,
    *,
    fast: bool = False,
    topk: int = 5,
    class_names: Sequence[str] | str | Path | None = None,
    sampling_rate: int | None = None,
    settings: Protocol | None = None,
    batch_size: int = 8,
    allow_partial: bool = False,
) -> list[tuple[str, float]]:
    """Returns the likeliest classes of a video, best first: [(label, score), ...].

    The score is the mean over the views (or the maximum, if the configuration says so) of the
    model's output in evaluation: with softmax, a probability.

    Args:
        video: a file; for an image network, an image or a video.
        model: what ``load`` takes (the folder of a training run, a checkpoint, or a name of
            ``list_pretrained()``), or a model, which is used on the device where it is.
        fast: one view, the centre crop of the clip in the middle, instead of all (10 x 3). A
            still image always has one view, the one of a test on images.
        class_names: in label order, "kinetics400", "kinetics600" or a file of names (text or
            JSON). None: the names in the checkpoint; if it has none, labels are texts such as
            "class 17".
        sampling_rate: distance of a clip's frames at 30 a second; None: what the model knows.
        settings: how to look at the video, instead of the model's own protocol.
        batch_size: views in a forward pass.
        allow_partial: use the frames of a damaged video that decode. A warning of the logger
            "octvideo" says which are left out.

    Raises:
        VideoError: the video cannot be read; names the file.
        UserError: no such model, unknown sampling rate, or another number of class names.
        NonFiniteError: the scores are nan or inf; names the file.
        ValueError: batch_size is below 1.
    """
    model = _model(model)
    settings = settings or protocol_of(model, sampling_rate)
    settings = replace(settings, allow_partial=allow_partial or settings.allow_partial)
    scores = ensemble(view_scores(video, model, settings, fast, batch_size), settings)
    check_finite(scores, "scores", video)
    names = _names(model, class_names, len(scores))
    best = np.argsort(-scores, kind="stable")[: max(topk, 0)]
    return [(names[label] if names else f"class {label}", float(scores[label])) for label in best]


def extract_features(
    video: Video,
    model: Model,
    *,
    fast: bool = False,
    per_view: bool = False,
    sampling_rate: int | None = None,
    settings: Protocol | None = None,
    batch_size: int = 8,
    allow_partial: bool = False,
) -> np.ndarray:
    """Returns the input of the last layer, averaged over positions: float32 (C,).

    It is the mean over the views; with ``per_view``, (num_clips * num_crops, C), view index = clip
    * num_crops + crop. Other arguments and errors as in `predict`.
    """
    model = _model(model)
    settings = settings or protocol_of(model, sampling_rate)
    settings = replace(settings, allow_partial=allow_partial or settings.allow_partial)
    scorer = features_scorer(model, settings, batch_size)
    features = rows(scorer, load_views(video, settings, fast))
    check_finite(features, "features", video)
    return features if per_view else features.mean(axis=0)


def view_scores(
    video: Video, model: nn.Module, settings: Protocol, fast: bool = False, batch_size: int = 8
) -> np.ndarray:
    """Returns what the model gives for each view: float32 (views, classes)."""
    scorer = Scorer(for_inference(model, settings.precision), settings, batch_size)
    return rows(scorer, load_views(video, settings, fast))


def features_scorer(model: nn.Module, settings: Protocol, batch_size: int = 8) -> Scorer:
    """Returns a scorer that gives what the last layer sees of each view, (files, views, C)."""
    return Scorer(Features(for_inference(model, settings.precision)), settings, batch_size)


def rows(scorer: Scorer, item: Item) -> np.ndarray:
    """Returns the scores of the one file of an item: float32 (views, classes)."""
    return scorer(item).values[0].cpu().numpy()


def load_views(video: Video, settings: Protocol, fast: bool = False) -> Item:
    """Returns the decoded views of a file, an item of `AllViews`."""
    item = views_of([video], settings, fast)[0]
    if item["bad"]:
        raise VideoError(*item["bad"][0])
    return item


def views_of(
    videos: Sequence[Video], settings: Protocol, fast: bool, watch: Watch | None = None
) -> AllViews:
    """Returns the views of several files as a data set; unreadable ones are items with ``bad``.

    Of an image network, an image has the one view of a test, and a video those of videos.
    """
    try:
        check_backend(settings.backend)
    except ImportError as error:
        raise UserError(str(error)) from error
    files = FileList.from_rows((os.fspath(video), 0) for video in videos)
    protocol, watch = settings.one_view() if fast else settings, watch or Watch()
    clips = AllViews(files, source_of("kinetics"), protocol, watch)
    if settings.centre_crop is None:
        return clips
    images = AllViews(files, source_of("imagenet"), settings.of_images(), watch)
    return _ImagesAndVideos(images, clips)


class _ImagesAndVideos(AllViews):
    """Opens each file as what it is: an image or a video."""

    def __init__(self, images: AllViews, clips: AllViews) -> None:
        super().__init__(clips.videos, clips.source, clips.protocol, clips.watch)
        self.images, self.clips = images, clips

    def __getitem__(self, index: int) -> Item:
        return (self.images if is_image(self.videos.path(index)) else self.clips)[index]


def check_finite(values: np.ndarray, what: str, video: Video) -> None:
    """Makes sure that nan never passes for a result.

    Raises:
        NonFiniteError: some of the values are nan or inf.
    """
    if np.isfinite(values).all():
        return
    raise NonFiniteError(
        f"{os.fspath(video)}: the model's {what} are nan or inf: use fp32 (TEST.PRECISION) if it "
        "runs in half precision, or another checkpoint"
    )


def ensemble(scores: np.ndarray, settings: Protocol) -> np.ndarray:
    """Returns the scores of a file, (classes,), from those of its views, (views, classes)."""
    return scores.max(axis=0) if settings.ensemble == "max" else scores.mean(axis=0)


def _model(model: Model) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    with _LOADING:  # threads that ask for one model together load it once
        return _loaded(os.fspath(model), tuple(map(_version, checkpoints_of(model))))


_LOADING = Lock()


@lru_cache(maxsize=1)
def _loaded(source: str, _files: tuple[object, ...]) -> nn.Module:
    """Keeps the model while its files do not change: predict is often called in a loop."""
    return load(source)


def _version(path: Path) -> tuple[object, ...]:
    state = path.stat()
    return path, state.st_ino, state.st_mtime_ns, state.st_size


def _names(
    model: nn.Module, given: Sequence[str] | str | Path | None, num_classes: int
) -> Sequence[str] | None:
    if isinstance(given, (str, Path)):
        given = read_class_names(given)
    names = getattr(model, "class_names", None) if given is None else given
    if names is not None and len(names) != num_classes:
        raise UserError(f"there are {len(names)} class names for a model of {num_classes} classes")
    return names
