"""From a configuration to batches: who reads which video, in how many processes."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import Sampler

from octvideo.config import batch_per_process, has_pictures, short_side_of_test
from octvideo.config.notation import parse_rand_augment
from octvideo.data.augment import Augmentation, RandAugment, RandomErasing
from octvideo.data.crash_safe_loader import VideoLoader, Watch
from octvideo.data.imagenet import (
    CentrePictures,
    TrainPictures,
    list_pictures,
    picture_classes,
)
from octvideo.data.kinetics import (
    CentreClips,
    RandomValidationClips,
    TestViews,
    TrainClips,
    VideoList,
    collate_clips,
)
from octvideo.data.labels import class_names_beside
from octvideo.data.lists import UNLABELLED, find_list, names_beside, read_list, warn_of_labels
from octvideo.data.pictures import CentreCrop, PCANoise, PictureTransform
from octvideo.data.read.video import Decoding, check_backend
from octvideo.data.sampling import ClipSampling
from octvideo.data.transforms import TrainTransform
from octvideo.distributed.collectives import is_main
from octvideo.utils.errors import UserError

logger = logging.getLogger(__name__)


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (epoch, index) of one rank, in an order that depends on seed and epoch alone.

    Every rank gets the same number of whole batches; what is left over at the end of the epoch's
    order is dropped. Step s of all ranks together is a window of that order, so that a run can
    go on at any sample, also with another world size. As the epoch is part of the key, workers
    that live through all epochs need not be told about it.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.num_samples, self.batch_size = num_samples, batch_size
        self.seed, self.rank, self.world_size, self.shuffle = seed, rank, world_size, shuffle
        self.num_batches = num_samples // self.samples_per_step
        self.set_epoch(0)

    @property
    def samples_per_step(self) -> int:
        """Of all ranks together."""
        return self.batch_size * self.world_size

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next iteration yields this epoch, without the first `start` samples of all ranks."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.num_samples)
        if self.shuffle:
            # TrainClips draws from [seed, epoch, index]: num_samples is no video's index.
            np.random.default_rng([self.seed, self.epoch, self.num_samples]).shuffle(order)
        order = order[self.start :]
        whole_steps = len(order) - len(order) % self.samples_per_step
        for index in order[self.rank : whole_steps : self.world_size]:
            yield self.epoch, int(index)

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch."""
        return self.num_batches * self.batch_size


def build_train_loader(cfg: CfgNode, rank: int = 0, world_size: int = 1) -> VideoLoader:
    """Batches of random clips (see `collate_clips`), or of pictures, whose "video" is (N, 3, s, s).

    A batch has AUG.NUM_SAMPLE clips for each of its videos. `loader.sampler` is an `EpochSampler`.
    """
    videos = read_split(cfg, "train", report=True)
    batch_size = batch_per_process(cfg)
    sampler = EpochSampler(len(videos), batch_size, cfg.RNG_SEED, rank, world_size)
    if not sampler.num_batches:
        raise UserError(
            f"{_list_path(cfg, 'train')} lists {len(videos)} videos, fewer than one batch "
            f"({batch_size} clips in each of {world_size} processes): lower TRAIN.BATCH_SIZE"
        )
    dataset = _train_pictures(cfg, videos) if has_pictures(cfg) else _train_clips(cfg, videos)
    return _loader(cfg, dataset, sampler, batch_size=batch_size, collate_fn=collate_clips)


def _train_clips(cfg: CfgNode, videos: VideoList) -> TrainClips:
    augmentation = _augmentation(cfg)
    transform = _train_transform(cfg)
    if augmentation.erasing:  # what it writes has no place in uint8
        transform = replace(transform, pixels="float32")
    return TrainClips(
        videos,
        _sampling(cfg),
        transform,
        seed=cfg.RNG_SEED,
        decoding=_decoding(cfg),
        augmentation=augmentation,
        watch=_watch(cfg),
    )


def _train_transform(cfg: CfgNode) -> TrainTransform:
    return TrainTransform(
        jitter_scales=tuple(cfg.DATA.TRAIN_JITTER_SCALES),
        crop_size=cfg.DATA.TRAIN_CROP_SIZE,
        flip=cfg.DATA.RANDOM_FLIP,
        inv_uniform=cfg.DATA.INV_UNIFORM_SAMPLE,
        relative_scales=tuple(cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE),
        relative_aspects=tuple(cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE),
        pixels=cfg.DATA.TRAIN_PIXELS,
    )


def _train_pictures(cfg: CfgNode, pictures: VideoList) -> TrainPictures:
    """RandAugment takes the place of colour jitter and noise; jitter is for AUG.ENABLE alone."""
    data, augmentation = cfg.DATA, _augmentation(cfg)
    noise = None
    if data.TRAIN_PCA_NOISE:
        noise = PCANoise(data.TRAIN_PCA_NOISE, data.TRAIN_PCA_EIGVAL, data.TRAIN_PCA_EIGVEC)
    transform = PictureTransform(
        crop_size=data.TRAIN_CROP_SIZE,
        scales=tuple(data.TRAIN_JITTER_SCALES_RELATIVE) or PictureTransform.scales,
        aspects=tuple(data.TRAIN_JITTER_ASPECT_RELATIVE) or PictureTransform.aspects,
        flip=data.RANDOM_FLIP,
        color_jitter=cfg.AUG.COLOR_JITTER if cfg.AUG.ENABLE else 0.0,
        noise=noise,
        rand_augment=augmentation.rand_augment,
        erasing=augmentation.erasing,
    )
    return TrainPictures(
        pictures,
        transform,
        cfg.RNG_SEED,
        augmentation.copies,
        augmentation.clean_first,
        watch=_watch(cfg),
    )


def _centre_pictures(cfg: CfgNode, pictures: VideoList) -> CentrePictures:
    data = cfg.DATA
    crop = CentreCrop(data.TEST_CROP_SIZE, data.IN_VAL_CROP_RATIO, data.TEST_INTERPOLATION)
    return CentrePictures(pictures, crop, watch=_watch(cfg))


def build_val_loader(cfg: CfgNode, rank: int = 0, world_size: int = 1) -> VideoLoader:
    """Batches of validation clips; over all ranks each video comes once: ranks may differ by one.

    DATA.VAL_VIEW says which clip and crop of a video it is.
    """
    videos = read_split(cfg, "val", report=True)
    mine = range(rank, len(videos), world_size)
    if has_pictures(cfg):
        clips: Any = _centre_pictures(cfg, videos)
    elif cfg.DATA.VAL_VIEW == "random":
        clips = RandomValidationClips(
            videos,
            replace(_sampling(cfg), jitter_fps=0.0),
            replace(_train_transform(cfg), relative_scales=(), relative_aspects=()),
            seed=cfg.RNG_SEED,
            decoding=_decoding(cfg),
            watch=_watch(cfg),
        )
    else:
        clips = CentreClips(
            videos,
            _sampling(cfg),
            cfg.DATA.TEST_CROP_SIZE,
            decoding=_decoding(cfg),
            watch=_watch(cfg),
            short_side=short_side_of_test(cfg),
        )
    return _loader(cfg, clips, mine, batch_size=batch_per_process(cfg), collate_fn=collate_clips)


def build_test_loader(cfg: CfgNode, rank: int = 0, world_size: int = 1) -> VideoLoader:
    """Items of `TestViews`, one video after another; over all ranks each video comes once.

    Pictures have one view, the centre crop: they come in batches, as for validation.
    """
    videos = read_split(cfg, "test", report=True)
    mine = range(rank, len(videos), world_size)
    if has_pictures(cfg, "test"):
        size, pictures = batch_per_process(cfg, "test"), _centre_pictures(cfg, videos)
        return _loader(cfg, pictures, mine, batch_size=size, collate_fn=collate_clips)
    views = TestViews(
        videos,
        _sampling(cfg),
        num_clips=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        num_crops=cfg.TEST.NUM_SPATIAL_CROPS,
        crop_size=cfg.DATA.TEST_CROP_SIZE,
        decoding=_decoding(cfg),
        watch=_watch(cfg),
        short_side=short_side_of_test(cfg),
    )
    # An item holds all views of a video: one in advance is enough.
    return _loader(cfg, views, mine, batch_size=None, prefetch_factor=1)


def normalization(cfg: CfgNode, split: str = "train") -> dict[str, Any]:
    """The arguments of ``normalize`` for batches of a split."""
    return {
        "mean": cfg.DATA.MEAN,
        "std": cfg.DATA.STD,
        "reverse_channels": cfg.DATA.REVERSE_INPUT_CHANNEL,
        "axis": -3 if has_pictures(cfg, split) else -4,
    }


def data_class_names(cfg: CfgNode, split: str = "train") -> list[str] | None:
    """The names of the classes of a data set, if it has any, in the order of their labels.

    A training writes them into its checkpoints, and a test into its results (split "test").
    """
    if has_pictures(cfg, split):
        return picture_classes(cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES)
    folder, count = cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES
    if (names := class_names_beside(folder, count)) is None:
        path = find_list(folder, "train")
        names = names_beside(path, cfg.DATA.PATH_LABEL_SEPARATOR) if path.is_file() else None
    return names if names is None or len(names) == count else None


def _decoding(cfg: CfgNode) -> Decoding:
    data = cfg.DATA
    return Decoding(data.DECODING_BACKEND, data.SQUARE_PIXELS, data.ALLOW_PARTIAL)


def _sampling(cfg: CfgNode) -> ClipSampling:
    return ClipSampling(
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        target_fps=cfg.DATA.TARGET_FPS,
        jitter_fps=cfg.DATA.TRAIN_JITTER_FPS,
        use_offset=cfg.DATA.USE_OFFSET_SAMPLING,
        by_time=cfg.DATA.SAMPLE_BY_TIME,
    )


def _augmentation(cfg: CfgNode) -> Augmentation:
    """Of the section AUG; AUG.NUM_SAMPLE counts even where AUG.ENABLE is off, as in PySlowFast."""
    aug = cfg.AUG
    rand_augment = erasing = None
    if aug.ENABLE and aug.AA_TYPE:
        rand_augment = RandAugment(parse_rand_augment(aug.AA_TYPE), aug.INTERPOLATION)
    if aug.ENABLE and aug.RE_PROB:
        mean, std = tuple(cfg.DATA.MEAN), tuple(cfg.DATA.STD)
        erasing = RandomErasing(aug.RE_PROB, aug.RE_MODE, aug.RE_COUNT, mean, std)
    return Augmentation(rand_augment, erasing, aug.NUM_SAMPLE, aug.RE_SPLIT)


def _list_path(cfg: CfgNode, split: str) -> Path:
    folder = Path(cfg.DATA.PATH_TO_DATA_DIR)
    return folder / split if has_pictures(cfg, split) else find_list(folder, split)


# What does without a split, to be told where its list is missing.
_WITHOUT = {
    "train": "",
    "val": "; TRAIN.EVAL_PERIOD 0 trains without val.csv",
    "test": "; TEST.ENABLE False leaves the test out",
}


def read_split(cfg: CfgNode, split: str, report: bool = False) -> VideoList:
    """The videos (images) of ``train``, ``val`` or ``test``.

    report: log how many there are, and warn, in the main process, of labels that look wrong.

    Raises:
        UserError: there is no list, or there are no videos in it; names the file and the line.
    """
    if has_pictures(cfg, split):
        return list_pictures(cfg.DATA.PATH_TO_DATA_DIR, split, cfg.MODEL.NUM_CLASSES)
    path = _list_path(cfg, split)
    if not path.is_file():
        raise UserError(
            f"there is no list of videos {path}: DATA.PATH_TO_DATA_DIR "
            f"({cfg.DATA.PATH_TO_DATA_DIR!r}) must be a folder with train.csv, val.csv and "
            f"test.csv, a line 'path{cfg.DATA.PATH_LABEL_SEPARATOR}label' for each video"
            f"{_WITHOUT[split]}"
        )
    separator, prefix = cfg.DATA.PATH_LABEL_SEPARATOR, cfg.DATA.PATH_PREFIX
    num_classes, unlabelled = cfg.MODEL.NUM_CLASSES, "all" if split == "test" else "refuse"
    try:
        videos = read_list(path, separator, prefix, num_classes, unlabelled)
    except OSError as error:
        raise UserError(f"the list {path} can not be read: {error.strerror}") from error
    if report:
        _report(videos, path, cfg.MODEL.NUM_CLASSES, split)
    return videos


def _report(videos: VideoList, path: Path, num_classes: int, split: str) -> None:
    if not is_main():
        return
    if (videos.labels == UNLABELLED).all():
        logger.warning(
            "%s has no labels: predictions.csv has the predicted class of each video, and there is "
            "no accuracy",
            path,
        )
    else:
        warn_of_labels(videos.labels, num_classes, path, split == "train")
    logger.info("%s: %d videos", path, len(videos))


def _watch(cfg: CfgNode) -> Watch:
    return Watch(_num_workers(cfg.DATA_LOADER.NUM_WORKERS), cfg.DATA.DECODE_TIMEOUT)


def _loader(
    cfg: CfgNode,
    dataset: Any,
    keys: Sampler | Sequence[int],
    prefetch_factor: int = 2,
    **options: Any,
) -> VideoLoader:
    try:
        check_backend(cfg.DATA.DECODING_BACKEND)
    except ImportError as error:
        raise UserError(f"DATA.DECODING_BACKEND: {error}") from error
    asked, workers = cfg.DATA_LOADER.NUM_WORKERS, _num_workers(cfg.DATA_LOADER.NUM_WORKERS)
    if workers < asked:
        logger.info("DATA_LOADER.NUM_WORKERS %d: %d used, one a core", asked, workers)
    return VideoLoader(
        dataset,
        keys,
        workers,
        prefetch_factor=prefetch_factor if workers else None,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and cfg.NUM_GPUS > 0 and torch.cuda.is_available(),
        # Workers are seeded from here; the global generator stays as a checkpoint has it.
        generator=torch.Generator().manual_seed(cfg.RNG_SEED),
        **options,
    )


def _num_workers(asked: int) -> int:
    """As many as asked for, but not more than there are cores: they would only fight for them."""
    return min(asked, usable_cores())


def usable_cores() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, cores or 1)
