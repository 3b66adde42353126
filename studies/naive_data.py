"""A data path built like PySlowFast's, for comparison; nothing else uses it.

A file is opened for every clip, and for every view of a test. From the keyframe before the clip to
its end all frames are decoded, all of the clip's span are converted to RGB, and only then some are
chosen. Whole frames become float32, are normalised and resized, and then the crop is cut out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from av.container import InputContainer
from av.video.frame import VideoFrame
from torch import Tensor
from torch.utils.data import Dataset

from octvideo.data.protocol import Protocol
from octvideo.data.read.packet_index import open_container
from octvideo.data.sampling import crop_offsets
from octvideo.data.transforms import TrainTransform, random_crop_params, short_side_size

MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


def read_clip(path: str, choose: Callable[[int, float], np.ndarray]) -> Tensor:
    """Returns uint8 (T, H, W, 3), the frames that `choose(number, frames per second)` picks."""
    with open_container(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        indices = choose(stream.frames, float(stream.average_rate or 30))
        frames = _decode_span(container, int(indices[0]), int(indices[-1]))
        images = torch.from_numpy(np.stack([f.to_rgb().to_ndarray() for f in frames]))
    return images[torch.from_numpy(indices - indices[0])]


def _decode_span(container: InputContainer, first: int, last: int) -> list[VideoFrame]:
    """Returns frames first..last of a file of constant rate."""
    stream = container.streams.video[0]
    tick = (stream.duration or 0) / stream.frames
    begin = stream.start_time or 0
    container.seek(begin + int(first * tick), stream=stream)
    frames: list[VideoFrame] = []
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= begin + (first - 0.5) * tick:
            frames.append(frame)
            if len(frames) > last - first:
                break
    return frames


def normalized(frames: Tensor) -> Tensor:
    """Converts uint8 (T, H, W, 3) to float32 (3, T, H, W)."""
    video = (frames.float() / 255.0 - torch.tensor(MEAN)) / torch.tensor(STD)
    return video.permute(3, 0, 1, 2)


def resized(video: Tensor, size: tuple[int, int]) -> Tensor:
    if video.shape[2:] == size:
        return video
    return F.interpolate(video, size=size, mode="bilinear", align_corners=False)


def training_clip(frames: Tensor, rng: np.random.Generator, spec: TrainTransform) -> Tensor:
    """Returns what `training_view` gives, normalised."""
    size, top, left = random_crop_params(frames.shape[1], frames.shape[2], rng, spec)
    video = resized(normalized(frames), size)
    video = video[:, :, top : top + spec.crop_size, left : left + spec.crop_size]
    return video.flip(-1) if spec.flip and rng.random() < 0.5 else video


@dataclass
class NaiveClips(Dataset):
    """The clips of `RandomClips`, normalised, and their labels."""

    paths: list[str]
    protocol: Protocol
    transform: TrainTransform
    seed: int = 0

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        frames = read_clip(
            self.paths[index], lambda count, fps: self.protocol.random_indices(count, fps, rng)
        )
        return training_clip(frames, rng, self.transform), 0


def naive_views(path: str, protocol: Protocol) -> Iterator[Tensor]:
    """Every view (3, T, S, S) of a video, normalised, in the order of a test."""
    num_crops, crop_size = protocol.num_crops, protocol.crop_size
    for clip in range(protocol.num_clips):
        for crop in range(num_crops):
            frames = read_clip(
                path, lambda count, fps, n=clip: protocol.view_indices(count, fps)[n]
            )
            size = short_side_size(frames.shape[1], frames.shape[2], crop_size)
            top, left = crop_offsets(*size, crop_size, num_crops)[crop]
            video = resized(normalized(frames), size)
            yield video[:, :, top : top + crop_size, left : left + crop_size]
