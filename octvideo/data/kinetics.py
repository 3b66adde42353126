"""The three ways in which the videos of a list are read.

Training takes one random clip of a video, validation the one in its middle, a test a grid of clips
and crops.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from octvideo.data.augment import Augmentation, augmented_views
from octvideo.data.crash_safe_loader import Watch
from octvideo.data.lists import VideoList
from octvideo.data.read.video import Decoding, VideoError, VideoReader
from octvideo.data.sampling import ClipSampling, crop_offsets
from octvideo.data.transforms import TrainTransform, resize_crop, short_side_size
from octvideo.utils.memory import is_shared_memory_full

T = TypeVar("T")

MAX_ASPECT = 16  # a longer strip, resized as a whole for its three crops, would exhaust memory


def read_or_replace(
    videos: VideoList,
    index: int,
    read: Callable[[str], T],
    rng: np.random.Generator,
    watch: Watch,
    max_tries: int = 10,
) -> tuple[T | None, int, list[tuple[str, str]]]:
    """What ``read(path)`` gives of a video, or, while it raises VideoError, of another, drawn anew.

    None after max_tries of them; the index of the one that it is of; (path, reason) of the others.
    """
    bad: list[tuple[str, str]] = []
    for _ in range(max_tries):
        path = videos.path(index)
        try:
            with watch.reading(index, path):
                return read(path), index, bad
        except VideoError as error:
            bad.append((path, error.reason))
            index = int(rng.integers(len(videos)))
    return None, index, bad


class TrainClips(Dataset):
    """One random clip of each video; keys are (epoch, index), as `EpochSampler` yields them.

    With augmentation.copies above 1 it is that many copies of the clip, each changed anew.

    The clip depends on seed, epoch and index alone, not on which worker or rank makes it. An
    unreadable video is replaced by another one, drawn in the same way.
    """

    def __init__(
        self,
        videos: VideoList,
        sampling: ClipSampling,
        transform: TrainTransform,
        seed: int = 0,
        decoding: Decoding | None = None,
        max_tries: int = 10,
        augmentation: Augmentation | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.videos, self.sampling, self.transform = videos, sampling, transform
        self.augmentation = augmentation or Augmentation()
        if self.augmentation.erasing and transform.pixels != "float32":
            raise ValueError("random erasing needs pixels float32")
        self.seed, self.decoding, self.max_tries = seed, decoding or Decoding(), max_tries
        self.watch = watch or Watch()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """video: (3, T, s, s), 0..255, of transform.pixels, or None after max_tries unreadable
        files, or a list where there are several copies; label; index: of the video that was read;
        bad: (path, reason) of each unreadable one."""
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])

        def views_of(reader: VideoReader) -> list[torch.Tensor]:
            indices = self.sampling.random_indices(
                reader.num_frames, reader.fps, rng, reader.timing.seconds
            )
            clip = reader.clip(indices)
            return augmented_views(clip, rng, self.transform, self.augmentation)

        def read(path: str) -> list[torch.Tensor]:
            return self.decoding.use(path, views_of)

        views, index, bad = read_or_replace(
            self.videos, index, read, rng, self.watch, self.max_tries
        )
        return item_of(views, int(self.videos.labels[index]), index, bad)


class CentreClips(Dataset):
    """The clip and the crop in the middle of each video, for validation during training.

    short_side: of the frames before the crop; None is crop_size.
    """

    def __init__(
        self,
        videos: VideoList,
        sampling: ClipSampling,
        crop_size: int,
        decoding: Decoding | None = None,
        watch: Watch | None = None,
        short_side: int | None = None,
    ) -> None:
        self.videos, self.sampling, self.crop_size = videos, sampling, crop_size
        self.short_side = short_side or crop_size
        self.decoding, self.watch = decoding or Decoding(), watch or Watch()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As TrainClips, the video float32; that of an unreadable file is None."""
        path, label = self.videos.path(index), int(self.videos.labels[index])
        try:
            with self.watch.reading(index, path):
                video = self.decoding.use(path, partial(self._read, index=index))
        except VideoError as error:
            return item_of(None, label, index, [(path, error.reason)])
        return item_of(video, label, index, [])

    def _read(self, reader: VideoReader, index: int) -> torch.Tensor:
        indices = self.sampling.centre_indices(reader.num_frames, reader.fps, reader.timing.seconds)
        return reader.clip(indices)(self._centre)

    def _centre(self, frames: np.ndarray) -> torch.Tensor:
        size = short_side_size(*frames.shape[1:3], self.short_side)
        [(top, left)] = crop_offsets(*size, self.crop_size, num_crops=1)
        return resize_crop(frames, size, top, left, self.crop_size, self.crop_size)


class RandomValidationClips(CentreClips):
    """A random clip, crop and flip of each video, as PySlowFast validates.

    They depend on seed and index alone: all validations of a run see the same.
    """

    def __init__(
        self,
        videos: VideoList,
        sampling: ClipSampling,
        transform: TrainTransform,
        seed: int = 0,
        decoding: Decoding | None = None,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(videos, sampling, transform.crop_size, decoding, watch)
        self.transform, self.seed = transform, seed

    def _read(self, reader: VideoReader, index: int) -> torch.Tensor:
        rng = np.random.default_rng([self.seed, index])
        indices = self.sampling.random_indices(
            reader.num_frames, reader.fps, rng, reader.timing.seconds
        )
        [video] = augmented_views(reader.clip(indices), rng, self.transform, Augmentation())
        return video


def item_of(
    video: torch.Tensor | list[torch.Tensor] | None,
    label: int,
    index: int,
    bad: list[tuple[str, str]],
) -> dict[str, Any]:
    """A list of one video is that video, an empty one None."""
    if isinstance(video, list) and len(video) < 2:
        video = video[0] if video else None
    return {"video": video, "label": label, "index": index, "bad": bad}


def collate_clips(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Batch of items: video (N, 3, T, s, s), label and index int64 (N,), bad: all of the items',
    num_bad: how many of the videos that were due could not be read.

    Items without a video are left out; where no item has one, N is 0 and video has no shape.
    Copies of a clip follow one another, each with the label and index of its video.
    """
    found = [item for item in items if item["video"] is not None]
    kept = [{**item, "video": video} for item in found for video in _copies(item["video"])]
    return {
        "video": _stack([item["video"] for item in kept]) if kept else torch.empty(0),
        "label": torch.tensor([item["label"] for item in kept], dtype=torch.int64),
        "index": torch.tensor([item["index"] for item in kept], dtype=torch.int64),
        "bad": [entry for item in items for entry in item["bad"]],
        "num_bad": sum(bool(item["bad"]) for item in items),
    }


def _stack(clips: list[torch.Tensor]) -> torch.Tensor:
    """In a worker, straight into shared memory, where that has room."""
    try:
        return default_collate(clips)  # type: ignore[no-any-return]
    except RuntimeError as error:
        if not is_shared_memory_full(error):
            raise
        return torch.stack(clips)


def _copies(video: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    return video if isinstance(video, list) else [video]


class TestViews(Dataset):
    """All views of a video: num_clips in time, num_crops in space; decoded once for all of them.

    short_side: of the frames before the crops; None is crop_size.
    """

    __test__ = False  # not a test class, whatever its name

    def __init__(
        self,
        videos: VideoList,
        sampling: ClipSampling,
        num_clips: int,
        num_crops: int,
        crop_size: int,
        decoding: Decoding | None = None,
        watch: Watch | None = None,
        short_side: int | None = None,
    ) -> None:
        self.videos, self.sampling = videos, sampling
        self.num_clips, self.num_crops, self.crop_size = num_clips, num_crops, crop_size
        self.short_side = short_side or crop_size
        self.decoding, self.watch = decoding or Decoding(), watch or Watch()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """What `view` makes the views from.

        frames: (3, U, H, W), the U different frames of all clips, short side short_side; uint8
        where the video has that size already, else float32 0..255. clips: int64 (num_clips, T),
        which of them. crops: int64 (num_crops, 2), top and left. label, index, bad as in
        TrainClips. Of an unreadable file there are label, index and bad alone.
        """
        path, label = self.videos.path(index), int(self.videos.labels[index])
        try:
            with self.watch.reading(index, path):
                views = self.decoding.use(path, self._read)
        except VideoError as error:
            return {"label": label, "index": index, "bad": [(path, error.reason)]}
        return {**views, "label": label, "index": index, "bad": []}

    def _read(self, reader: VideoReader) -> dict[str, torch.Tensor]:
        clips = self.sampling.view_indices(
            reader.num_frames, reader.fps, self.num_clips, reader.timing.seconds
        )
        wanted, positions = np.unique(clips, return_inverse=True)
        clip = reader.clip(wanted)
        height, width = reader.size
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise VideoError(reader.path, f"is a strip of {height}x{width} pixels")
        size = short_side_size(height, width, self.short_side)
        return {
            "frames": clip(lambda frames: _whole_frames(frames, size)),
            "clips": torch.from_numpy(positions.reshape(clips.shape)),
            "crops": torch.tensor(crop_offsets(*size, self.crop_size, self.num_crops)),
        }


def _whole_frames(frames: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """uint8 (U, H, W, 3) -> (3, U, h, w): the same values, or resized to float32."""
    if frames.shape[1:3] == size:
        return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))
    return resize_crop(frames, size, 0, 0, *size)


def view(frames: torch.Tensor, clip: torch.Tensor, crop: torch.Tensor, size: int) -> torch.Tensor:
    """One view (3, T, size, size) of frames (3, U, H, W): clip (T,), crop (top, left).

    The view's index is clip * num_crops + crop, in the numbers of an item of TestViews. It shares
    the memory of the frames where the clip's are evenly spaced there.
    """
    top, left = crop.tolist()
    part = frames[:, :, top : top + size, left : left + size]
    places = clip.tolist()
    step = max(1, places[1] - places[0]) if len(places) > 1 else 1
    if places == list(range(places[0], places[0] + step * len(places), step)):
        return part[:, places[0] : places[-1] + 1 : step]
    # Not index_select, which is many times slower on the CPU where it reads a part of the frames.
    return part[:, clip.to(frames.device)]
