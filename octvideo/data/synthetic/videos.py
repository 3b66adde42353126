"""Small action sets made of real H.264 files.

The frames come from `scenes` or `hard`; here they are written as mp4 files of several sizes, frame
rates and lengths, in the layout of a Kinetics csv data set.
"""

import functools
import io
import itertools
import json
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from tqdm import tqdm

from octvideo.data.sources.folders import SPLITS
from octvideo.data.synthetic.scenes import Actions
from octvideo.utils.files import has_content, write_whole

FRAME_RATES = (15, 24, 25, 30)
KEYFRAME_INTERVALS = (12, 25, 50)

MANIFEST = "synthetic.json"  # written last: its presence says that the set is complete
UNFINISHED = "synthetic.unfinished.json"  # the same settings, while clips are being written
CLASS_NAMES = "class_names.json"  # {name: label}, the format of the Kinetics class names
FORMAT_VERSION = 1  # to be raised when the same settings no longer give the same pixels


# ---------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------
def write_video(
    path: str | Path, frames: np.ndarray, fps: float | Fraction, *, crf: int = 18, gop: int = 25
) -> None:
    """Writes (T, H, W, 3) uint8 RGB frames as an H.264 mp4 (yuv420p); equal input, equal bytes.

    The film is encoded in memory and appears under its name only when it is whole. ValueError for
    frames that H.264 in 4:2:0 cannot hold; OSError where the disk refuses.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"expected (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"yuv420p needs even sizes, got {height}x{width}")
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as container:
        # One thread, since what x264 writes depends on their number; no mbtree, with which films as
        # small as these were seen to differ from one call to the next.
        options = {"preset": "veryfast", "threads": "1", "mbtree": "0"}
        options |= {"crf": str(crf), "g": str(gop)}
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    write_whole(Path(path), film.getvalue())


# ---------------------------------------------------------------------------------------------
# The set
# ---------------------------------------------------------------------------------------------
class Drawing(Protocol):
    """What the clips of a set show."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def crf(self) -> int: ...
    @property
    def aspect_ratios(self) -> tuple[tuple[int, int], ...]: ...  # width : height

    def settings(self) -> dict[str, object]:
        """Returns what the pixels depend on, besides the settings of `make_synthetic`."""

    def render(
        self,
        seed: Sequence[int],
        name: str,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        /,
    ) -> np.ndarray:
        """Returns the frames of a clip of a class, (T, H, W, 3) uint8 RGB."""


@dataclass(frozen=True)
class _Clip:
    """One file to be made; `path` is relative to the root of the set."""

    path: str
    name: str
    seed: tuple[int, int, int]  # seed of the set, split, index: all that the pixels depend on


def _plan(split: str, count: int, seed: int, classes: Sequence[str]) -> list[_Clip]:
    """Plans the clips of a split; labels take turns, so that they are balanced."""
    return [
        _Clip(
            path=f"{split}/{name}/{index:05d}.mp4",
            name=name,
            seed=(seed, SPLITS.index(split), index),
        )
        for index, name in zip(range(count), itertools.cycle(classes), strict=False)
    ]


def _make_clip(
    clip: _Clip,
    *,
    root: Path,
    drawing: Drawing,
    short_side: tuple[int, int],
    seconds: tuple[float, float],
) -> None:
    """Draws size, rate and length, independently of the label, then renders and writes."""
    rng = np.random.default_rng([*clip.seed, 1])
    short = 2 * int(rng.integers(short_side[0] // 2, short_side[1] // 2 + 1))
    across, down = drawing.aspect_ratios[rng.integers(len(drawing.aspect_ratios))]
    width = 2 * round(short * across / min(across, down) / 2)
    height = 2 * round(short * down / min(across, down) / 2)
    fps = FRAME_RATES[rng.integers(len(FRAME_RATES))]
    gop = KEYFRAME_INTERVALS[rng.integers(len(KEYFRAME_INTERVALS))]
    num_frames = round(rng.uniform(*seconds) * fps)
    frames = drawing.render([*clip.seed, 2], clip.name, num_frames, height, width, fps)
    write_video(root / clip.path, frames, fps, crf=drawing.crf, gop=gop)


def make_synthetic(
    out_dir: str | Path,
    *,
    num_train: int = 1200,
    num_val: int = 160,
    num_test: int = 160,
    seed: int = 0,
    short_side: tuple[int, int] = (64, 96),
    seconds: tuple[float, float] = (1.5, 4.0),
    drawing: Drawing | None = None,
    num_workers: int = 1,
    overwrite: bool = False,
) -> bool:
    """Makes the set in `out_dir`; returns False if the same set was already there, whole.

    Layout: `{train,val,test}.csv` with lines `path label`, paths relative to `out_dir`;
    `{split}/{action}/{index}.mp4`; `class_names.json`; `synthetic.json`, written last.
    The pixels depend on `drawing` (default: the eight actions), `seed`, `short_side` (pixels) and
    `seconds` (ranges to draw from), and on nothing else. A run that was interrupted is taken up
    again. `overwrite` replaces a set made with other settings, never anything else. ValueError
    for impossible settings, FileExistsError where `out_dir` holds something else, OSError where
    the disk refuses.
    """
    counts = dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
    _check(counts, seed, short_side, seconds)
    drawing = drawing or Actions()
    settings = {
        "format": FORMAT_VERSION,
        "clips": counts,
        "seed": seed,
        "short_side": list(short_side),
        "seconds": list(seconds),
    } | drawing.settings()
    root = Path(out_dir)
    plan = {split: _plan(split, count, seed, drawing.classes) for split, count in counts.items()}
    _claim(root, settings, overwrite)
    missing = [c for clips in plan.values() for c in clips if not has_content(root / c.path)]
    if not missing and (root / MANIFEST).exists():
        return False
    _write_json(root / UNFINISHED, settings)
    (root / MANIFEST).unlink(missing_ok=True)
    for folder in {(root / clip.path).parent for clip in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    make = functools.partial(
        _make_clip, root=root, drawing=drawing, short_side=short_side, seconds=seconds
    )
    for _ in tqdm(_run(make, missing, num_workers), total=len(missing), unit="clip", disable=None):
        pass
    labels = {name: label for label, name in enumerate(drawing.classes)}
    for split, clips in plan.items():
        lines = "".join(f"{clip.path} {labels[clip.name]}\n" for clip in clips)
        write_whole(root / f"{split}.csv", lines)
    _write_json(root / CLASS_NAMES, labels)
    _write_json(root / MANIFEST, settings)
    (root / UNFINISHED).unlink(missing_ok=True)  # another job may have made the same set
    return True


def _check(
    counts: dict[str, int], seed: int, short_side: tuple[int, int], seconds: tuple[float, float]
) -> None:
    for split, count in counts.items():
        if count < 0:
            raise ValueError(f"num_{split} must not be negative, got {count}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if not 16 <= short_side[0] <= short_side[1] or any(side % 2 for side in short_side):
        raise ValueError(f"short_side must be two even numbers, 16 <= low <= high: {short_side}")
    if not 0.1 <= seconds[0] <= seconds[1]:
        raise ValueError(f"seconds must be two numbers, 0.1 <= low <= high: {seconds}")


def _claim(root: Path, settings: dict[str, object], overwrite: bool) -> None:
    """Makes sure that `root` is a folder which is new, empty, or holds a set of these settings."""
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is not a folder; choose another one")
    root.mkdir(parents=True, exist_ok=True)
    manifest = next((root / n for n in (MANIFEST, UNFINISHED) if (root / n).exists()), None)
    if manifest is None:
        if any(root.iterdir()):
            raise FileExistsError(
                f"{root} is not empty and holds no {MANIFEST}; choose a new or empty folder"
            )
    elif (found := _read_json(manifest)) != settings:
        if not overwrite:
            raise FileExistsError(
                f"{root} holds a synthetic set with other settings ({manifest.name}: {found}; "
                f"asked for: {settings}); choose another folder, or overwrite it (--overwrite)"
            )
        for split in SPLITS:
            shutil.rmtree(root / split, ignore_errors=True)
            (root / f"{split}.csv").unlink(missing_ok=True)
        for name in (CLASS_NAMES, MANIFEST, UNFINISHED):
            (root / name).unlink(missing_ok=True)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it or choose a new folder"
        ) from error


def _run(make: functools.partial[None], clips: list[_Clip], num_workers: int) -> Iterator[None]:
    """Applies `make` to the clips, one result each, in up to `num_workers` processes."""
    if min(num_workers, len(clips)) <= 1:
        yield from map(make, clips)
        return
    pool = ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent
    )
    try:
        yield from pool.map(make, clips, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
