"""Compares the CPU time of our data path with PySlowFast's way (`naive_data`).

Both make the same clips in turns, each in a process of its own. Our process sets up its memory as
a loader process or a test on the CPU does; the naive one keeps the C library's default. The CPU
time of all processes is counted, because other work on the machine hardly changes it. Before
anything is timed, the pixels of the two are compared.
"""

import gc
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader

from octvideo.config import get_cfg
from octvideo.data import VideoReader, build_test_loader, build_train_loader, normalize
from octvideo.data.loader import EpochSampler
from octvideo.data.prepare.reencode import reencode
from octvideo.data.synthetic.scenes import render_clip
from octvideo.data.synthetic.videos import write_video
from octvideo.data.transforms import training_view
from octvideo.engine.scorer import view_batches
from octvideo.utils.errors import UserError
from octvideo.utils.memory import keep_freed_memory
from studies import naive_data
from studies.turns import Setup, in_turns

Row = dict[str, Any]
_TURN = 16  # transforms of one variant before the next one takes its turn


def benchmark_loader(
    video: str | None = None, clips: int = 96, rounds: int = 5, workers: int = 2
) -> list[Row]:
    """Measures training: the transform of a clip of 8 frames, and the whole loader.

    The file is `video`, or a 10 s film of 340x256 with a keyframe every 250 frames. It is measured
    as it is and after tools/prepare_dataset.py has re-encoded it.

    Returns:
        Rows of file, kind (transform or loader), variant (naive or ours; ours_float32 with
        DATA.TRAIN_PIXELS float32), cpu_ms a clip (median of the rounds), spread_ms (between the
        quartiles), clips_per_s_per_core, ratio (naive / this one, median of the rounds),
        max_difference from naive (of 255). A prepared file also has ratio_to_source, relative to
        the naive path on its source file.

    Raises:
        UserError: the two paths do not give the same pixels, or the video cannot be read.
    """
    rows = []
    with _one_thread(), _files(video) as files:
        source: list[float] = []
        for path in files:
            cfg = _cfg(path, clips, workers)
            if path == files[0]:
                rows += _transform_rows(cfg, path, max(rounds, 20))
            difference = _clip_difference(cfg)
            setups = {
                "naive": partial(_timed, _naive_epoch, cfg),
                "ours": partial(_timed, _epoch, cfg),
            }
            times = in_turns(setups, rounds, clips)
            found = _summaries(path, "loader", times, {"naive": 0.0, "ours": difference})
            source = source or times["naive"]
            if path != files[0]:
                found[-1]["ratio_to_source"] = _ratio(source, times["ours"])
            rows += found
    return rows


def benchmark_test(video: str | None = None, rounds: int = 3) -> list[Row]:
    """Measures the 30 views (10 clips x 3 crops) of a video.

    Returns rows like `benchmark_loader`'s, kind views, with videos_per_s_per_core. Variant ours is
    what a loader process does, up to the uint8 frames that go to the device. ours_to_batches also
    normalises them and cuts the views, as on the CPU; naive does both.
    """
    rows = []
    with _one_thread(), _files(video) as files:
        for path in files:
            cfg = _cfg(path, 1, 0)
            setups: dict[str, Setup] = {
                "naive": partial(_timed, _naive_test, cfg),
                "ours": partial(_timed, _test_item, cfg, keep=True),
                "ours_to_batches": partial(_timed, _test, cfg, keep=True),
            }
            difference = _difference(path, torch.cat(_test(cfg)), torch.stack(_naive_test(cfg)))
            times = in_turns(setups, rounds, 1)
            found = dict.fromkeys(setups, difference) | {"naive": 0.0}
            rows += _summaries(path, "views", times, found)
    return rows


# ------------------------------------------------------------------------------- what is measured


def _cfg(path: Path, clips: int, workers: int) -> CfgNode:
    """Returns the defaults, with lists beside the file that name it `clips` times."""
    folder = path.parent / f"{path.name}.lists"
    folder.mkdir(exist_ok=True)
    for split, count in (("train", clips), ("test", 1)):
        (folder / f"{split}.csv").write_text(f"{path} 0\n" * count)
    cfg = get_cfg()
    cfg.NUM_GPUS, cfg.TRAIN.BATCH_SIZE = 0, min(8, clips)
    cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA_LOADER.NUM_WORKERS = str(folder), workers
    return cfg


def _transforms(cfg: CfgNode, path: Path) -> dict[str, Callable[[int], Tensor]]:
    clips = build_train_loader(cfg).dataset
    with VideoReader(path) as reader:
        [indices] = clips.protocol.one_view().view_indices(reader.num_frames, reader.fps)
        frames = reader.get(indices)
    crop = clips.transform.crop
    exact = replace(crop, pixels="float32")
    tensor = torch.from_numpy(frames)
    draw = np.random.default_rng
    return {
        "naive": lambda n: naive_data.training_clip(tensor, draw(n), exact),
        "ours": lambda n: training_view(frames, draw(n), crop),
        "ours_float32": lambda n: training_view(frames, draw(n), exact),
    }


def _transform_rows(cfg: CfgNode, path: Path, rounds: int) -> list[Row]:
    variants = _transforms(cfg, path)
    differences = dict.fromkeys(variants, 0.0)
    for name in list(variants)[1:]:
        for n in range(rounds):
            ours = normalize(variants[name](n), naive_data.MEAN, naive_data.STD)
            found = _difference(path, ours, variants["naive"](n), name != "ours_float32")
            differences[name] = max(differences[name], found)
    setups = {name: partial(_timed_transform, cfg, path, name) for name in variants}
    return _summaries(path, "transform", in_turns(setups, rounds, _TURN), differences)


def _timed_transform(cfg: CfgNode, path: Path, name: str) -> Callable[[], Any]:
    if name != "naive":
        keep_freed_memory()  # as the processes of a loader
    transform = _transforms(cfg, path)[name]
    return lambda: [transform(n) for n in range(_TURN)]


def _timed(run: Callable[[CfgNode], Any], cfg: CfgNode, keep: bool = False) -> Callable[[], Any]:
    if keep:
        keep_freed_memory()
    return partial(run, cfg)


def _naive_clips(cfg: CfgNode) -> naive_data.NaiveClips:
    ours = build_train_loader(cfg).dataset
    crop = ours.transform.crop
    return naive_data.NaiveClips(ours.videos.paths(), ours.protocol, crop, ours.seed)


def _naive_epoch(cfg: CfgNode) -> None:
    clips, size = _naive_clips(cfg), cfg.TRAIN.BATCH_SIZE
    for _ in DataLoader(
        clips,
        batch_size=size,
        sampler=EpochSampler(len(clips.paths), size, cfg.RNG_SEED),
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        worker_init_fn=lambda worker: torch.set_num_threads(1),
    ):
        pass
    gc.collect(0)  # the loader's processes end


def _epoch(cfg: CfgNode) -> None:
    for _ in build_train_loader(cfg):
        pass
    gc.collect(0)


def _clip_difference(cfg: CfgNode) -> float:
    naive, ours = _naive_clips(cfg), build_train_loader(cfg).dataset
    keys = [(0, index) for index in range(min(4, len(ours)))]
    return max(
        _difference(
            Path(naive.paths[0]),
            normalize(ours[key]["views"][0], naive_data.MEAN, naive_data.STD),
            naive[key][0],
            rounded=True,
        )
        for key in keys
    )


def _naive_test(cfg: CfgNode) -> list[Tensor]:
    views = build_test_loader(cfg).dataset
    return list(naive_data.naive_views(views.videos.path(0), views.protocol))


def _test_item(cfg: CfgNode) -> dict[str, Any]:
    return build_test_loader(cfg).dataset[0]


def _test(cfg: CfgNode) -> list[Tensor]:
    item = _test_item(cfg)
    frames = normalize(item["frames"], naive_data.MEAN, naive_data.STD)
    return list(view_batches(item, frames, cfg.DATA.TEST_CROP_SIZE, cfg.TEST.BATCH_SIZE))


def _difference(path: Path, ours: Tensor, naive: Tensor, rounded: bool = False) -> float:
    """Returns the largest difference between two normalised videos, of 255.

    Raises:
        UserError: it is more than rounding.
    """
    if ours.shape != naive.shape:
        raise UserError(f"{path}: the two paths give {[*ours.shape]} and {[*naive.shape]}")
    std = torch.tensor(naive_data.STD).view(3, 1, 1, 1)
    found = float(((ours - naive) * std).abs().max()) * 255
    if found > (1.02 if rounded else 0.255):  # 1e-3 of 255
        raise UserError(
            f"{path}: the two paths differ by {found:.3g} of 255; the naive one needs a video of "
            "constant frame rate whose header states its number of frames"
        )
    return round(found, 4)


# ------------------------------------------------------------------------------------ measurement


def _ratio(naive: Sequence[float], ours: Sequence[float]) -> float:
    return round(float(np.median(np.divide(naive, ours))), 2)


def _summaries(
    path: Path, kind: str, times: dict[str, list[float]], differences: dict[str, float]
) -> list[Row]:
    unit = "videos" if kind == "views" else "clips"
    rows = []
    for name, seconds in times.items():
        low, median, high = np.percentile(seconds, (25, 50, 75))
        rows.append(
            {
                "file": path.name,
                "kind": kind,
                "variant": name,
                "cpu_ms": round(1000 * median, 3),
                "spread_ms": round(1000 * (high - low), 3),
                f"{unit}_per_s_per_core": round(1 / median, 2),
                "ratio": _ratio(times["naive"], seconds),
                "max_difference": differences[name],
            }
        )
    return rows


@contextmanager
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _files(video: str | None) -> Any:
    """Yields the film, and the same re-encoded by tools/prepare_dataset.py."""
    with tempfile.TemporaryDirectory() as folder:
        if video is None:
            source = Path(folder) / "synthetic_gop250.mp4"
            frames = render_clip(0, "left", 300, 256, 340, 30)
            write_video(source, frames, 30, gop=250, crf=23)
        else:
            source = Path(folder) / Path(video).name
            source.symlink_to(Path(video).resolve())
        prepared = source.with_name(f"{source.stem}_prepared.mp4")
        reencode(source, prepared)
        yield [source, prepared]


def format_data_rows(rows: Sequence[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = [
        "| file | what | variant | CPU ms | spread | per s and core | naive / this | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate = next(value for key, value in row.items() if key.endswith("per_s_per_core"))
        ratio = f"{row['ratio']:.2f}"
        if "ratio_to_source" in row:
            ratio += f" ({row['ratio_to_source']:.2f} of the source)"
        lines.append(
            f"| {row['file']} | {row['kind']} | {row['variant']} | {row['cpu_ms']:.1f} "
            f"| {row['spread_ms']:.1f} | {rate:.1f} | {ratio} | {row['max_difference']:.3f} |"
        )
    return "\n".join(lines)
