"""From a configuration to batches: who reads which video, in how many processes."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import Sampler

from octvideo.config import batch_per_process
from octvideo.config.notation import parse_rand_augment
from octvideo.data.augment import Augmentation, ClipTransform, RandAugment, RandomErasing
from octvideo.data.clips import (
    AllViews,
    Batch,
    Item,
    RandomClips,
    TrainingViews,
    collate_clips,
)
from octvideo.data.crash_safe_loader import Keys, VideoLoader, Watch
from octvideo.data.image_transforms import ImageTransform, PCANoise
from octvideo.data.protocol import Protocol, build_protocol
from octvideo.data.read.video import check_backend
from octvideo.data.sources import FileList, Place, Source, source_of
from octvideo.data.transforms import TrainTransform
from octvideo.distributed.collectives import is_main
from octvideo.distributed.launcher_env import processes_of
from octvideo.utils.errors import UserError

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields the keys (epoch, index) of one rank, in an order that depends on seed and epoch alone.

    Every rank gets the same number of whole batches; what is left over at the end of the epoch's
    order is dropped. Step s of all ranks together is a window of that order, so that a run can
    resume at any sample, also with another world size. The epoch is part of the key, so workers
    that live through all epochs need no message about it.
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
        """Returns the samples of all ranks in a step."""
        return self.batch_size * self.world_size

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Makes the next iteration yield this epoch, without the first `start` of all samples."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.num_samples)
        if self.shuffle:
            # RandomClips draws from [seed, epoch, index]: num_samples is no video's index.
            np.random.default_rng([self.seed, self.epoch, self.num_samples]).shuffle(order)
        order = order[self.start :]
        whole_steps = len(order) - len(order) % self.samples_per_step
        for index in order[self.rank : whole_steps : self.world_size]:
            yield self.epoch, int(index)

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch."""
        return self.num_batches * self.batch_size


def build_train_loader(cfg: CfgNode, rank: int = 0, world_size: int = 1) -> VideoLoader[Batch]:
    """Returns batches of random clips (see `collate_clips`), or of images, clips of one frame.

    A batch has AUG.NUM_SAMPLE clips for each of its files. `loader.sampler` is an `EpochSampler`.
    """
    source, videos = source_of(cfg.TRAIN.DATASET), read_split(cfg, "train", report=True)
    batch_size = batch_per_process(cfg, processes_of(cfg))
    sampler = EpochSampler(len(videos), batch_size, cfg.RNG_SEED, rank, world_size)
    if not sampler.num_batches:
        raise UserError(
            f"the training set in {cfg.DATA.PATH_TO_DATA_DIR} lists {len(videos)} {source.noun}, "
            f"fewer than one batch ({batch_size} clips in each of {world_size} processes): lower "
            "TRAIN.BATCH_SIZE"
        )
    clips = RandomClips(
        videos,
        source,
        build_protocol(cfg),
        build_training_views(cfg),
        seed=cfg.RNG_SEED,
        jitter_fps=cfg.DATA.TRAIN_JITTER_FPS,
        watch=build_watch(cfg),
    )
    return build_loader(cfg, clips, sampler, batch_size, collate_clips)


def build_val_loader(cfg: CfgNode, rank: int = 0, world_size: int = 1) -> VideoLoader[Batch]:
    """Returns batches of one view a file; over all ranks each comes once: ranks may differ by one.

    DATA.VAL_VIEW says which clip and crop it is: those in the middle, or random ones that are the
    same in every validation.
    """
    source, videos = source_of(cfg.TRAIN.DATASET), read_split(cfg, "val", report=True)
    mine = range(rank, len(videos), world_size)
    batch_size = batch_per_process(cfg, processes_of(cfg))
    if cfg.DATA.VAL_VIEW == "random":
        clips = RandomClips(
            videos,
            source,
            build_protocol(cfg),
            build_training_views(cfg, plain=True),
            seed=cfg.RNG_SEED,
            max_tries=1,
            watch=build_watch(cfg),
        )
        return build_loader(cfg, clips, [(index,) for index in mine], batch_size, collate_clips)
    protocol = build_test_protocol(cfg, source).one_view()
    views = AllViews(videos, source, protocol, build_watch(cfg))
    return build_loader(cfg, views, mine, batch_size, collate_clips)


def build_test_loader(
    cfg: CfgNode, rank: int = 0, world_size: int = 1
) -> VideoLoader[Item] | VideoLoader[Batch]:
    """Returns items of `AllViews`, one file after another; over all ranks each file comes once.

    Where a file has one view, they come in batches, as in validation.
    """
    source, videos = source_of(cfg.TEST.DATASET), read_split(cfg, "test", report=True)
    mine, protocol = range(rank, len(videos), world_size), build_test_protocol(cfg, source)
    views = AllViews(videos, source, protocol, build_watch(cfg))
    if protocol.num_views == 1:
        size = batch_per_process(cfg, processes_of(cfg), "test")
        return build_loader(cfg, views, mine, size, collate_clips)
    # An item holds all views of a video: one in advance is enough.
    one_by_one: VideoLoader[Item] = build_loader(cfg, views, mine, None, prefetch_factor=1)
    return one_by_one


def build_test_protocol(cfg: CfgNode, source: Source) -> Protocol:
    """Returns how the files of a source are looked at in a test."""
    protocol = build_protocol(cfg)
    return protocol.of_images() if source.images else protocol


def build_training_views(cfg: CfgNode, plain: bool = False) -> TrainingViews:
    """Returns what makes the training views of a clip; plain: crop and flip alone."""
    data = cfg.DATA
    augmentation = Augmentation() if plain else build_augmentation(cfg)
    if source_of(cfg.TRAIN.DATASET).images:
        return build_image_views(cfg, augmentation)
    crop = TrainTransform(
        jitter_scales=tuple(data.TRAIN_JITTER_SCALES),
        crop_size=data.TRAIN_CROP_SIZE,
        flip=data.RANDOM_FLIP,
        inv_uniform=data.INV_UNIFORM_SAMPLE,
        relative_scales=() if plain else tuple(data.TRAIN_JITTER_SCALES_RELATIVE),
        relative_aspects=() if plain else tuple(data.TRAIN_JITTER_ASPECT_RELATIVE),
        # What erasing writes has no place in uint8.
        pixels="float32" if augmentation.erasing else data.TRAIN_PIXELS,
    )
    return ClipTransform(crop, augmentation)


def build_image_views(cfg: CfgNode, augmentation: Augmentation) -> ImageTransform:
    """Returns the transform of images; colour jitter is for AUG.ENABLE alone."""
    data, noise = cfg.DATA, None
    if data.TRAIN_PCA_NOISE:
        noise = PCANoise(data.TRAIN_PCA_NOISE, data.TRAIN_PCA_EIGVAL, data.TRAIN_PCA_EIGVEC)
    return ImageTransform(
        crop_size=data.TRAIN_CROP_SIZE,
        scales=tuple(data.TRAIN_JITTER_SCALES_RELATIVE) or ImageTransform.scales,
        aspects=tuple(data.TRAIN_JITTER_ASPECT_RELATIVE) or ImageTransform.aspects,
        flip=data.RANDOM_FLIP,
        color_jitter=cfg.AUG.COLOR_JITTER if cfg.AUG.ENABLE else 0.0,
        noise=noise,
        augmentation=augmentation,
    )


def build_augmentation(cfg: CfgNode) -> Augmentation:
    """Returns what AUG asks for; AUG.NUM_SAMPLE counts without AUG.ENABLE too, as in PySlowFast."""
    aug = cfg.AUG
    rand_augment = erasing = None
    if aug.ENABLE and aug.AA_TYPE:
        rand_augment = RandAugment(parse_rand_augment(aug.AA_TYPE), aug.INTERPOLATION)
    if aug.ENABLE and aug.RE_PROB:
        mean, std = tuple(cfg.DATA.MEAN), tuple(cfg.DATA.STD)
        erasing = RandomErasing(aug.RE_PROB, aug.RE_MODE, aug.RE_COUNT, mean, std)
    return Augmentation(rand_augment, erasing, aug.NUM_SAMPLE, aug.RE_SPLIT)


def read_split(cfg: CfgNode, split: str, report: bool = False) -> FileList:
    """Returns the files of ``train``, ``val`` or ``test``.

    report: log, in the main process, how many there are and what looks wrong about them.

    Raises:
        UserError: there is no list, or there are no files in it; names the file and the line.
    """
    files = _source(cfg, split).list_files(build_place(cfg), split)
    if report and is_main():
        files.report()
    return files


def data_class_names(cfg: CfgNode, split: str = "train") -> list[str] | None:
    """Returns the names of the classes of a data set, if it has any, in the order of their labels.

    A training run writes them into its checkpoints, and a test into its results (split "test").
    """
    return _source(cfg, split).class_names(build_place(cfg))


def _source(cfg: CfgNode, split: str) -> Source:
    return source_of(cfg["TEST" if split == "test" else "TRAIN"].DATASET)


def build_place(cfg: CfgNode) -> Place:
    """Returns where the data set is."""
    data = cfg.DATA
    return Place(
        data.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES, data.PATH_LABEL_SEPARATOR, data.PATH_PREFIX
    )


def build_watch(cfg: CfgNode) -> Watch:
    """Returns what watches the workers of a loader."""
    return Watch(_num_workers(cfg.DATA_LOADER.NUM_WORKERS), cfg.DATA.DECODE_TIMEOUT)


def build_loader(
    cfg: CfgNode,
    dataset: RandomClips | AllViews,
    keys: Keys,
    batch_size: int | None,
    collate_fn: Callable[[list[Item]], Loaded] | None = None,
    prefetch_factor: int = 2,
) -> VideoLoader[Loaded]:
    """Returns batches of items, or items where there is no ``batch_size``, in the order of keys."""
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
        batch_size=batch_size,
        collate_fn=collate_fn,
        prefetch_factor=prefetch_factor if workers else None,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and cfg.NUM_GPUS > 0 and torch.cuda.is_available(),
        # Workers are seeded from here; the global generator stays as a checkpoint has it.
        generator=torch.Generator().manual_seed(cfg.RNG_SEED),
    )


def _num_workers(asked: int) -> int:
    """Returns the number asked for, but at most one worker a core: more only compete."""
    return min(asked, usable_cores())


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, cores or 1)
