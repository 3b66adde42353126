import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode

from octvideo.config import get_cfg, load_cfg
from octvideo.config.notation import RandAugmentSpec
from octvideo.data import build_test_loader, build_train_loader, build_val_loader
from octvideo.data.clips import AllViews, view
from octvideo.data.loader import EpochSampler
from octvideo.data.protocol import Protocol, build_protocol
from octvideo.data.read.video import VideoReader
from octvideo.data.synthetic.videos import write_video
from octvideo.utils.errors import UserError

NUM_VIDEOS = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven clips; in the lists for validation and test the third is broken."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for n in range(NUM_VIDEOS):
        frames = rng.integers(0, 256, (20, 36, 48, 3), dtype=np.uint8)
        write_video(root / f"{n}.mp4", frames, fps=30)
    (root / "broken.mp4").write_bytes(b"no video")
    names = [f"{n}.mp4" for n in range(NUM_VIDEOS)]
    broken = [*names[:2], "broken.mp4", *names[3:]]
    for split, files in (("train", names), ("val", broken), ("test", broken)):
        rows = [f"{name} {n}" for n, name in enumerate(files)]
        (root / f"{split}.csv").write_text("\n".join(rows))
    return root


def config(folder: Path, *options: Any, workers: int = 0) -> CfgNode:
    cfg = get_cfg()
    values = {
        "NUM_GPUS": 0,
        "DATA.PATH_TO_DATA_DIR": str(folder),
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 2,
        "DATA.TRAIN_JITTER_SCALES": [34, 40],
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "DATA_LOADER.NUM_WORKERS": workers,
        "MODEL.NUM_CLASSES": 10,
        "TRAIN.BATCH_SIZE": 2,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
    }
    cfg.merge_from_list([x for pair in values.items() for x in pair] + list(options))
    cfg.freeze()
    return cfg


# ---------------------------------------------------------------------------------------- sampler


def test_ranks_share_an_epoch():
    samplers = [EpochSampler(23, 3, seed=5, rank=r, world_size=2) for r in range(2)]
    for sampler in samplers:
        sampler.set_epoch(4)
    keys = [list(sampler) for sampler in samplers]
    assert [len(k) for k in keys] == [len(s) for s in samplers] == [9, 9]
    assert {epoch for epoch, _ in keys[0] + keys[1]} == {4}
    assert len({index for _, index in keys[0] + keys[1]}) == 18  # none twice


def test_order_depends_on_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(50, 1, seed=seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order(0, 0) == order(0, 0) != sorted(order(0, 0))
    assert sorted(order(0, 0)) == list(range(50))
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9
    plain = EpochSampler(5, 1, shuffle=False)
    assert [index for _, index in plain] == list(range(5))


def test_epoch_continues_at_a_batch():
    sampler = EpochSampler(23, 3, rank=1, world_size=2)
    sampler.set_epoch(2)
    whole = list(sampler)
    for step in range(4):
        sampler.set_epoch(2, 6 * step)
        assert list(sampler) == whole[3 * step :]
        assert len(sampler) == 9  # of the whole epoch


@pytest.mark.parametrize(("start", "steps"), [(0, 3), (5, 3), (6, 2), (17, 1), (18, 0), (23, 0)])
def test_ranks_continue_at_any_sample(start, steps):
    """With whole steps of what is left, each sample at most once, in the order of the epoch."""
    alone = EpochSampler(23, 1)
    order = [index for _, index in alone]
    ranks = [EpochSampler(23, 3, rank=r, world_size=2) for r in range(2)]
    for sampler in ranks:
        sampler.set_epoch(0, start)
    keys = [[index for _, index in sampler] for sampler in ranks]
    assert [len(k) for k in keys] == [3 * steps] * 2
    together = [index for pair in zip(*keys, strict=True) for index in pair]
    assert together == order[start : start + 6 * steps]


def test_a_step_takes_the_same_samples_on_any_world_size():
    def window(world_size: int, step: int) -> set[int]:
        batch = 8 // world_size
        samplers = [
            EpochSampler(40, batch, rank=r, world_size=world_size) for r in range(world_size)
        ]
        return {i for s in samplers for _, i in list(s)[step * batch : (step + 1) * batch]}

    for step in range(5):
        assert window(1, step) == window(2, step) == window(4, step)


# ---------------------------------------------------------------------------------------- loaders


def read_epoch(loader: torch.utils.data.DataLoader, epoch: int) -> dict[int, torch.Tensor]:
    loader.sampler.set_epoch(epoch)
    videos = {}
    for batch in loader:
        assert batch["video"].shape == (2, 3, 4, 32, 32)
        assert batch["video"].is_contiguous()
        assert loader.dataset.transform.crop.pixels in str(batch["video"].dtype)
        assert batch["label"].tolist() == batch["index"].tolist()
        assert batch["bad"] == []
        videos.update(zip(batch["index"].tolist(), batch["video"], strict=True))
    return videos


@pytest.fixture(scope="module")
def epochs(folder) -> list[dict[int, torch.Tensor]]:
    """Videos by index of three epochs, read in the main process."""
    loader = build_train_loader(config(folder))
    assert len(loader) == 3
    return [read_epoch(loader, epoch) for epoch in range(3)]


def test_workers_change_nothing(folder, epochs):
    loader = build_train_loader(config(folder, workers=2))
    assert loader.persistent_workers
    for epoch in (0, 1):
        videos = read_epoch(loader, epoch)
        assert list(videos) == list(epochs[epoch])
        for index, video in videos.items():
            assert torch.equal(video, epochs[epoch][index])


def test_epochs_and_seeds_differ(folder, epochs):
    other = read_epoch(build_train_loader(config(folder, "RNG_SEED", 2)), 0)
    for first, second in itertools.combinations([*epochs, other], 2):
        for index in first.keys() & second.keys():
            assert not torch.equal(first[index], second[index])


def test_two_ranks_train_on_different_videos(folder):
    videos = [read_epoch(build_train_loader(config(folder), r, 2), 0) for r in range(2)]
    assert not videos[0].keys() & videos[1].keys()
    assert [len(v) for v in videos] == [2, 2]


def test_a_run_continues_inside_an_epoch(folder, epochs):
    loader = build_train_loader(config(folder, workers=1))
    loader.sampler.set_epoch(1, 4)
    [batch] = list(loader)
    last = list(epochs[1].items())[-2:]
    assert batch["index"].tolist() == [index for index, _ in last]
    assert torch.equal(batch["video"], torch.stack([video for _, video in last]))
    assert len(loader) == 3


def test_loaders_leave_the_global_generator_alone(folder):
    state = torch.get_rng_state()
    read_epoch(build_train_loader(config(folder)), 0)
    list(build_val_loader(config(folder)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_each_video_is_evaluated_once(folder, world_size):
    cfg = config(folder)
    for build in (build_val_loader, build_test_loader):
        seen, bad = [], []
        for rank in range(world_size):
            for batch in build(cfg, rank, world_size):
                seen += np.atleast_1d(batch["index"]).tolist() if "video" in batch else []
                seen += [batch["index"]] if "frames" in batch else []
                bad += batch["bad"]
        assert sorted(seen) == [0, 1, 3, 4, 5, 6]
        assert [path for path, _ in bad] == [str(folder / "broken.mp4")]


def test_views_pass_through_workers(folder):
    plain, workers = (list(build_test_loader(config(folder, workers=w))) for w in (0, 2))
    assert [item["index"] for item in workers] == list(range(NUM_VIDEOS))
    for a, b in zip(plain, workers, strict=True):
        assert a.keys() == b.keys()
        assert (a["label"], a["bad"]) == (b["label"], b["bad"])
        for key in a.keys() & {"frames", "clips", "crops"}:
            assert torch.equal(a[key], b[key])
    assert workers[0]["clips"].shape == (2, 4)
    assert workers[0]["crops"].shape == (3, 2)


def test_configuration_reaches_the_data(folder):
    cfg = config(
        folder,
        *("DATA.TRAIN_JITTER_FPS", 5.0, "DATA.USE_OFFSET_SAMPLING", True),
        *("DATA.TARGET_FPS", 25, "DATA.RANDOM_FLIP", False, "DATA.INV_UNIFORM_SAMPLE", True),
        *("DATA.TRAIN_JITTER_SCALES_RELATIVE", [0.1, 1.0]),
        *("DATA.TRAIN_JITTER_ASPECT_RELATIVE", [0.75, 1.33]),
        *("DATA.REVERSE_INPUT_CHANNEL", True, "TEST.NUM_SPATIAL_CROPS", 1, "RNG_SEED", 9),
    )
    clips = build_train_loader(cfg).dataset
    assert clips.seed == 9
    assert (clips.jitter_fps, clips.protocol.target_fps) == (5.0, 25)
    crop = clips.transform.crop
    assert crop.relative_scales == (0.1, 1.0)
    assert crop.relative_aspects == (0.75, 1.33)
    assert crop.inv_uniform
    assert not crop.flip
    protocol = build_test_loader(cfg).dataset.protocol
    assert (protocol.num_clips, protocol.num_crops, protocol.crop_size) == (2, 1, 32)
    assert protocol.use_offset
    assert protocol.reverse_channels


def test_pixels_may_stay_exact(folder, epochs):
    videos = read_epoch(build_train_loader(config(folder, "DATA.TRAIN_PIXELS", "float32")), 0)
    assert list(videos) == list(epochs[0])
    for index, video in videos.items():
        assert (video.dtype, epochs[0][index].dtype) == (torch.float32, torch.uint8)
        torch.testing.assert_close(epochs[0][index].float(), video, rtol=0, atol=1.02)
    with pytest.raises(UserError, match="set one of uint8, float32"):
        load_cfg(None, ["DATA.TRAIN_PIXELS", "int8"])


def test_augmentation_reaches_the_data(folder):
    cfg = config(
        folder,
        *("AUG.ENABLE", True, "AUG.NUM_SAMPLE", 2, "AUG.AA_TYPE", "rand-m7-n4-inc1"),
        *("AUG.INTERPOLATION", "bilinear", "AUG.RE_PROB", 0.5, "AUG.RE_MODE", "const"),
        *("AUG.RE_COUNT", 3, "AUG.RE_SPLIT", True, "DATA.MEAN", [0.4, 0.5, 0.6]),
    )
    loader = build_train_loader(cfg)
    spec = loader.dataset.transform.augmentation
    assert spec.rand_augment.spec == RandAugmentSpec(7, 4, 0.0, True)
    assert spec.rand_augment.interpolation == "bilinear"
    erasing = spec.erasing
    assert (erasing.probability, erasing.mode, erasing.max_count) == (0.5, "const", 3)
    assert erasing.mean == (0.4, 0.5, 0.6)
    assert spec.clean_first
    assert loader.dataset.transform.crop.pixels == "float32"  # for the noise of erasing
    batches = list(loader)
    assert len(batches) == 3  # a batch has the copies of two videos
    assert all(batch["video"].shape == (4, 3, 4, 32, 32) for batch in batches)
    again = list(build_train_loader(config(folder, *changed(cfg), workers=1)))
    assert all(torch.equal(a["video"], b["video"]) for a, b in zip(batches, again, strict=True))


def changed(cfg: CfgNode) -> list[Any]:
    """The options of AUG, and the mean, of a configuration."""
    options = [("DATA.MEAN", cfg.DATA.MEAN), *((f"AUG.{k}", v) for k, v in cfg.AUG.items())]
    return [word for pair in options for word in pair]


def test_augmentation_is_off_where_it_is_not_asked_for(folder):
    spec = build_train_loader(config(folder)).dataset.transform.augmentation
    assert (spec.rand_augment, spec.erasing, spec.copies) == (None, None, 1)
    cfg = config(folder, "AUG.ENABLE", True, "AUG.AA_TYPE", "", "AUG.RE_PROB", 0.0)
    spec = build_train_loader(cfg).dataset.transform.augmentation
    assert (spec.rand_augment, spec.erasing) == (None, None)
    # nor does it touch validation
    assert isinstance(build_val_loader(cfg).dataset, AllViews)


def test_missing_list_is_explained(folder, tmp_path):
    with pytest.raises(ValueError, match=r"DATA\.PATH_TO_DATA_DIR") as error:
        build_train_loader(config(tmp_path))
    assert str(tmp_path / "train.csv") in str(error.value)
    with pytest.raises(ValueError, match=r"TRAIN\.EVAL_PERIOD 0 trains without val\.csv"):
        build_val_loader(config(tmp_path))
    with pytest.raises(ValueError, match=r"TEST\.ENABLE False leaves the test out"):
        build_test_loader(config(tmp_path))


def test_labels_are_checked(folder):
    with pytest.raises(ValueError, match=r"train.csv, line 4: .*MODEL.NUM_CLASSES, 3"):
        build_train_loader(config(folder, "MODEL.NUM_CLASSES", 3))


def test_batch_larger_than_the_set_is_an_error(folder):
    with pytest.raises(ValueError, match=r"lists 7 videos, .*lower TRAIN\.BATCH_SIZE"):
        build_train_loader(config(folder, "TRAIN.BATCH_SIZE", 8))


def test_workers_are_not_more_than_cores(folder, caplog, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 6}, raising=False)
    with caplog.at_level(logging.INFO, "octvideo"):
        assert build_val_loader(config(folder, workers=2)).num_workers == 2
        assert "NUM_WORKERS" not in caplog.text
        assert build_val_loader(config(folder, workers=8)).num_workers == 3
    assert "DATA_LOADER.NUM_WORKERS 8: 3 used" in caplog.text


def test_workers_live_through_signals_of_others(folder):
    """As a terminal and SLURM send them, to every process; the main one still needs its workers."""
    loader = build_train_loader(config(folder, workers=2))
    batches = iter(loader)
    next(batches), next(batches)  # of both workers
    workers = loader._loader._iterator._workers
    pids = [str(worker.pid) for worker in workers]
    for name in ("INT", "TERM", "HUP", "USR1"):
        subprocess.run(["/bin/kill", f"-{name}", *pids], check=True)
    assert len(list(batches)) == 1
    loader.sampler.set_epoch(1)
    assert len(list(loader)) == 3
    assert [str(worker.pid) for worker in loader._loader._iterator._workers] == pids
    for worker in workers:
        worker.terminate()  # their parent may
        worker.join(10)
        assert worker.exitcode == 0


def test_a_list_that_can_not_be_read_is_named(folder, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        "octvideo.data.sources.videos.read_list", denied
    )  # to root nothing is denied
    with pytest.raises(UserError, match=r"list .*val.csv cannot be read: Permission denied"):
        build_val_loader(config(folder))


def test_a_backend_that_is_not_installed_is_told_before_any_worker_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    opts = ["DATA.DECODING_BACKEND", "decord", "DATA.PATH_TO_DATA_DIR", str(tmp_path)]
    cfg = load_cfg(None, [*opts, "TRAIN.BATCH_SIZE", "1"])
    with pytest.raises(UserError, match=r"DATA.DECODING_BACKEND.*pip install .*decord"):
        build_train_loader(cfg)


def test_one_crop_is_the_centre_of_larger_frames(folder):
    """As in PySlowFast: the short side to TRAIN_JITTER_SCALES[0], then the centre."""
    one = config(folder, "TEST.NUM_SPATIAL_CROPS", 1, "DATA.TRAIN_JITTER_SCALES", [34, 40])
    item = build_test_loader(one).dataset[0]
    with VideoReader(str(folder / "0.mp4")) as reader:
        clip = Protocol(4, 2, num_clips=2).view_indices(20, 30.0)[1]
        frames = torch.from_numpy(reader.get_frames(clip)).permute(3, 0, 1, 2).float()
    whole = F.interpolate(frames, (34, 45), mode="bilinear", align_corners=False)
    [crop] = item["crops"]
    got = view(item["frames"], item["clips"][1], crop, 32)
    # From row 1 and column 7: the ceiling of half of what is left.
    torch.testing.assert_close(got, whole[:, :, 1:33, 7:39], rtol=0, atol=1e-3)
    # The centre clip of validation and of quick predictions looks at it in the same size.
    assert build_val_loader(one).dataset.protocol.short_side == 34
    assert build_protocol(one).short_side == 34
    three = build_test_loader(config(folder)).dataset[0]
    assert three["frames"].shape[2] == 32
    larger = config(folder, "TEST.NUM_SPATIAL_CROPS", 1, "DATA.TEST_CROP_SIZE", 48)
    assert build_test_loader(larger).dataset[0]["frames"].shape[-2:] == (48, 48)


def test_validation_takes_random_clips_where_it_is_asked_to(folder):
    """PySlowFast's: clip, crop of TRAIN_CROP_SIZE and flip as in training, without augmentation."""
    more = ("DATA.TRAIN_CROP_SIZE", 24, "AUG.ENABLE", True, "AUG.NUM_SAMPLE", 2)
    cfg = config(folder, "DATA.VAL_VIEW", "random", *more, "DATA.TRAIN_JITTER_SCALES", [36, 36])
    loader = build_val_loader(cfg)
    first, second = list(loader), list(loader)
    for a, b in zip(first, second, strict=True):  # the same in every validation
        assert torch.equal(a["video"], b["video"])
    assert sum(len(batch["label"]) for batch in first) == NUM_VIDEOS - 1  # one is broken
    assert first[0]["video"].shape[1:] == (3, 4, 24, 24)

    # Each is a crop of the video, which has the short side 36 already, or its mirror image.
    found = set()
    for batch in first:
        for video, index in zip(batch["video"], batch["index"].tolist(), strict=True):
            with VideoReader(str(folder / f"{index}.mp4")) as reader:
                frames = torch.from_numpy(reader.get_frames(range(20))).permute(3, 0, 1, 2)
            found |= {(index, *place) for place in places_of(video, frames)}
    assert len(found) == NUM_VIDEOS - 1
    assert len({place[1:4] for place in found}) == NUM_VIDEOS - 1  # clip and crop differ
    assert {place[4] for place in found} == {False, True}


def places_of(video: torch.Tensor, frames: torch.Tensor) -> Iterator[tuple[int, int, int, bool]]:
    """(first frame, top, left, mirrored) of all crops of frames (3, T, H, W) that are the video."""
    side = video.shape[-1]
    for flip in (False, True):
        first = (video.flip(-1) if flip else video)[:, 0]
        windows = frames.unfold(2, side, 1).unfold(3, side, 1)  # (3, T, y, x, side, side)
        same = (windows == first[:, None, None, None]).all(-1).all(-1).all(0)
        yield from ((*place, flip) for place in same.nonzero().tolist())
