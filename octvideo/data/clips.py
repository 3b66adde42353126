"""The two ways to look at the files of a list: a random clip, and all views of a test.

path -> source (uint8 T H W C, only the frames asked for) -> transforms -> collate -> device
"""

from collections.abc import Callable
from typing import TypedDict, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from octvideo.data.crash_safe_loader import Watch
from octvideo.data.image_transforms import resize_crop_pillow
from octvideo.data.protocol import Protocol
from octvideo.data.read.frames import Convert, Frames
from octvideo.data.read.packet_index import VideoError
from octvideo.data.sampling import crop_offsets
from octvideo.data.sources import FileList, Source
from octvideo.data.transforms import Box, resize_crop, short_side_size
from octvideo.utils.memory import is_shared_memory_full

MAX_ASPECT = 16  # a longer strip, resized as a whole for its three crops, would exhaust memory

# `ClipTransform` or `ImageTransform`: the clip as `Frames.clip` gives it -> views (3, T, s, s).
TrainingViews = Callable[[Callable[[Convert], Tensor], np.random.Generator], list[Tensor]]


@final
class Item(TypedDict, total=False):
    """What a data set gives for a file: of RandomClips views, of AllViews what `view` needs.

    Of an unreadable file there are label, index and bad, (path, reason) of each file tried, alone.
    """

    views: list[Tensor]
    frames: Tensor
    clips: Tensor
    crops: Tensor
    size: int
    label: int
    index: int
    bad: list[tuple[str, str]]


@final
class Batch(TypedDict):
    """What `collate_clips` makes of items."""

    video: Tensor
    label: Tensor
    index: Tensor
    bad: list[tuple[str, str]]
    num_bad: int


class _Files(Dataset):
    """The files of a list, as a source opens them and a protocol looks at them."""

    def __init__(
        self, videos: FileList, source: Source, protocol: Protocol, watch: Watch | None = None
    ) -> None:
        self.videos, self.source, self.protocol = videos, source, protocol
        self.watch = watch or Watch()

    def __len__(self) -> int:
        return len(self.videos)


class RandomClips(_Files):
    """Gives a random clip of each file, as training needs it.

    Keys are (epoch, index), as `EpochSampler` yields them, or (index,) for clips that are the same
    in every pass. The clip depends on seed and key alone, not on which worker or rank makes it. An
    unreadable file is replaced by another one, drawn in the same way, max_tries times at most.

    Args:
        transform: makes the views of a clip; several are copies, each changed separately.
        jitter_fps: see `Protocol.random_indices`.
    """

    def __init__(
        self,
        videos: FileList,
        source: Source,
        protocol: Protocol,
        transform: TrainingViews,
        seed: int = 0,
        *,
        jitter_fps: float = 0.0,
        max_tries: int = 10,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(videos, source, protocol, watch)
        self.transform, self.seed, self.jitter_fps = transform, seed, jitter_fps
        self.max_tries = max_tries

    def __getitem__(self, key: tuple[int, ...]) -> Item:
        """Returns views (3, T, s, s), 0..255, none after max_tries unreadable files.

        label and index belong to the file that was read.
        """
        index, rng = key[-1], np.random.default_rng([self.seed, *key])
        bad: list[tuple[str, str]] = []

        def views_of(frames: Frames) -> list[Tensor]:
            seconds = frames.timing.seconds
            indices = self.protocol.random_indices(
                frames.num_frames, frames.fps, rng, seconds, self.jitter_fps
            )
            return self.transform(frames.clip(indices), rng)

        for _ in range(self.max_tries):
            path, label = self.videos.path(index), int(self.videos.labels[index])
            try:
                with self.watch.reading(index, path):
                    views = self.source.read(path, self.protocol, views_of)
                return {"views": views, "label": label, "index": index, "bad": bad}
            except VideoError as error:
                bad.append((path, error.reason))
                index = int(rng.integers(len(self.videos)))
        return {"views": [], "label": label, "index": index, "bad": bad}


class AllViews(_Files):
    """Gives all views of each file: the clips and crops of a test, or the one of a validation.

    A file is read once for all of its views. Keys are indices.
    """

    def __getitem__(self, index: int) -> Item:
        """Returns what `view` makes the views from.

        frames: (3, U, H, W), the U different frames of all clips, 0..255; uint8 where the file has
        that size already, else float32. clips: int64 (num_clips, T), which of them. crops: int64
        (num_crops, 2), top and left; size: of a crop.
        """
        path, label = self.videos.path(index), int(self.videos.labels[index])
        try:
            with self.watch.reading(index, path):
                views = self.source.read(path, self.protocol, self._views)
        except VideoError as error:
            return {"label": label, "index": index, "bad": [(path, error.reason)]}
        return {**views, "label": label, "index": index, "bad": []}

    def _views(self, frames: Frames) -> Item:
        protocol = self.protocol
        clips = protocol.view_indices(frames.num_frames, frames.fps, frames.timing.seconds)
        wanted, places = np.unique(clips, return_inverse=True)
        clip = frames.clip(wanted)
        height, width = frames.size
        size = short_side_size(height, width, protocol.short_side or protocol.crop_size)
        crops = crop_offsets(*size, protocol.crop_size, protocol.num_crops)
        box = (0, 0, *size)  # of the resized frames, what is computed
        if len(crops) == 1:
            box = (*crops[0], protocol.crop_size, protocol.crop_size)
            crops = [(0, 0)]
        elif max(height, width) > MAX_ASPECT * min(height, width):
            raise VideoError(frames.path, f"is a strip of {height}x{width} pixels")
        return {
            "frames": clip(lambda pixels: self._resized(pixels, size, box)),
            "clips": torch.from_numpy(places.reshape(clips.shape)),
            "crops": torch.tensor(crops),
            "size": protocol.crop_size,
        }

    def _resized(self, frames: np.ndarray, size: tuple[int, int], box: Box) -> Tensor:
        """Resizes uint8 (U, H, W, 3); returns (3, U, h, w), the box (top, left, h, w) of it."""
        if self.protocol.antialias:
            return resize_crop_pillow(frames, size, box, self.protocol.interpolation)
        if frames.shape[1:3] != size:
            return resize_crop(frames, size, box)
        top, left, h, w = box
        part = frames[:, top : top + h, left : left + w].transpose(3, 0, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(part))


def view(frames: torch.Tensor, clip: torch.Tensor, crop: torch.Tensor, size: int) -> torch.Tensor:
    """Cuts a view (3, T, size, size) out of frames (3, U, H, W): clip (T,), crop (top, left).

    The view's index is clip * num_crops + crop, in the numbers of an item of AllViews. It shares
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


def collate_clips(items: list[Item]) -> Batch:
    """Makes a batch of items of RandomClips, or of AllViews where a file has one view.

    Returns video (N, 3, T, s, s), label and index int64 (N,), bad: all of the items', num_bad: how
    many of the files that were due could not be read. Items without views are left out; where no
    item has one, N is 0 and video has no shape. Copies of a clip follow one another, each with the
    label and index of its file.
    """
    kept = [(video, item) for item in items for video in _views_of(item)]
    return {
        "video": _stack([video for video, _ in kept]) if kept else torch.empty(0),
        "label": torch.tensor([item["label"] for _, item in kept], dtype=torch.int64),
        "index": torch.tensor([item["index"] for _, item in kept], dtype=torch.int64),
        "bad": [entry for item in items for entry in item["bad"]],
        "num_bad": sum(bool(item["bad"]) for item in items),
    }


def _views_of(item: Item) -> list[Tensor]:
    """Returns the views of an item of RandomClips, or the one view of an item of AllViews."""
    if "frames" not in item:
        return item.get("views", [])
    return [view(item["frames"], item["clips"][0], item["crops"][0], item["size"])]


def _stack(clips: list[Tensor]) -> Tensor:
    """Stacks clips, in a worker straight into shared memory if that has room."""
    if len({clip.dtype for clip in clips}) > 1:  # of a test, those that are not resized are uint8
        clips = [clip.float() for clip in clips]
    try:
        return default_collate(clips)
    except RuntimeError as error:
        if not is_shared_memory_full(error):
            raise
        return torch.stack(clips)
