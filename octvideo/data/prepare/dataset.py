"""From folders of videos, or the annotations of Kinetics, to checked lists for training."""

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from tqdm import tqdm

from octvideo.data.labels import class_names
from octvideo.data.prepare.reencode import Encoding, VideoFacts, check_video, reencode
from octvideo.data.read.packet_index import VideoError
from octvideo.data.sources.folders import (
    SPLITS,
    first_few,
    folders_in,
    split_folders,
    split_of,
    video_files,
)
from octvideo.utils.errors import UserError
from octvideo.utils.files import claim, write_csv, write_whole
from octvideo.utils.workers import Failure, run_guarded

logger = logging.getLogger("octvideo")

_ANNOTATION_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_SETTINGS = "reencode.json"
_VERSION = 2  # of `reencode`: counts changes of what it makes of the same file
_MEANING = ("#", "~", '"', " ", "\t", "\ufeff")  # at the start of a line of a list


@dataclass(frozen=True)
class Video:
    """A file of a data set."""

    path: str
    label: int
    split: str


@dataclass
class Plan:
    """What a data set consists of, before any file is opened.

    root: folder that all files lie under. bad: (path, reason) of what cannot be used.
    """

    root: Path
    names: list[str]
    videos: list[Video] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)


def plan_of_tree(root: Path, names: Sequence[str] | None = None, layout: str = "auto") -> Plan:
    """Plans the files of ``root/class/...`` (split "train") or ``root/{train,val,test}/class/...``.

    Labels count the class folders in alphabetical order, unless ``names`` (in label order) says
    otherwise; in folder names an underscore may stand for a blank. layout: see `split_folders`.

    Raises:
        UserError: there is no such folder, no class folder in it, a class without a name, or
            folders of which it is not clear whether they are splits or classes.
    """
    parts = split_folders(root, layout) or {"train": root}
    found = {folder.name for part in parts.values() for folder in folders_in(part)}
    videos = {split: video_files(part) for split, part in parts.items()}
    if not found:
        direct = sum(map(len, videos.values()))
        itself = f" It holds {direct} videos itself: is it a class? Give the folder above it."
        raise UserError(
            f"{root} has no class folders: expected {root}/CLASS/*.mp4.{itself if direct else ''}"
        )
    names = sorted(found) if names is None else list(names)
    label_of = _labels(names, found, str(root))
    plan = Plan(root, names)
    inner: set[str] = set()  # splits that folders inside of classes read like
    for split, part in parts.items():
        for path in videos[split]:
            inside = Path(path).relative_to(part).parts
            inner.update(filter(None, map(split_of, inside[1:2] if len(inside) > 2 else ())))
            if len(inside) > 1:
                plan.videos.append(Video(path, label_of[inside[0]], split))
            else:
                plan.bad.append((path, "is not in the folder of a class"))
    if len(inner) > 1:
        logger.warning(
            "%s: the classes hold folders that read like splits (%s), which do not count: all of "
            "their videos are in %s. Expected %s/train/CLASS/*.mp4",
            *(root, ", ".join(sorted(inner)), ", ".join(parts), root),
        )
    if plan.bad:
        text = "%d videos, such as %s, lie in no class folder and are left out; the classes are %s"
        logger.warning(text, len(plan.bad), plan.bad[0][0], first_few(sorted(found)))
    return plan


def plan_of_annotations(
    files: Sequence[Path], root: Path, names: Sequence[str] | None = None
) -> Plan:
    """Plans the videos of Kinetics annotation files, wherever below ``root`` they are.

    A video is known by its name, ``{youtube_id}_{start:06d}_{end:06d}`` or ``{youtube_id}``; of
    several files of a name, the one under a folder with the name of the split is taken. Rows
    without a label (test sets) are left out. Labels count the labels of all files in alphabetical
    order, unless ``names`` (in label order) says otherwise.

    Raises:
        UserError: a file cannot be read, is not such an annotation, or has an unknown label.
    """
    rows = [row for file in files for row in _annotation_rows(file)]
    labelled = [row for row in rows if row["label"]]
    if len(labelled) < len(rows):
        logger.warning("%d rows without a label are left out", len(rows) - len(labelled))
    if not labelled:
        raise UserError(f"there are no labelled rows in {', '.join(map(str, files))}")
    found = {row["label"] for row in labelled}
    names = _annotation_names(found) if names is None else list(names)
    label_of = _labels(names, found, "the annotations")
    by_stem: dict[str, list[str]] = {}
    for path in video_files(root):
        by_stem.setdefault(Path(path).stem, []).append(path)
    plan = Plan(root, names)
    for row in labelled:
        stem, split = row["stem"], row["split"]
        paths = by_stem.get(stem) or by_stem.get(row["youtube_id"])
        if paths:
            path = min(paths, key=lambda path: (not _is_under(path, root, split), path))
            plan.videos.append(Video(path, label_of[row["label"]], split))
        else:
            plan.bad.append((f"{stem}.mp4", f"is not under {root} (split {split})"))
    return plan


def _annotation_rows(file: Path) -> list[dict[str, str]]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            missing = set(_ANNOTATION_COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise UserError(
                    f"{file} has no column {', '.join(sorted(missing))}: a Kinetics annotation "
                    f"file begins with the line {','.join(_ANNOTATION_COLUMNS)}"
                )
            return [_annotation_row(row, f"{file}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the annotation file {file} cannot be read: {error}") from error


def _annotation_row(row: dict[str, str], where: str) -> dict[str, str]:
    row = {name: (row[name] or "").strip() for name in _ANNOTATION_COLUMNS}
    split = split_of(row["split"])
    if split is None:
        raise UserError(f"{where}: the split is {row['split']!r}, not train, validate or test")
    try:
        start, end = int(float(row["time_start"])), int(float(row["time_end"]))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: time_start and time_end must be seconds: {error}") from error
    stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
    return {**row, "label": row["label"].strip('"'), "split": split, "stem": stem}


def _annotation_names(found: set[str]) -> list[str]:
    for known in ("kinetics400", "kinetics600"):
        if found < set(class_names(known)):
            logger.warning(
                "All %d labels are classes of %s, but get numbers of their own: --class-names %s "
                "gives them the numbers that published checkpoints have",
                *(len(found), known, known),
            )
            break
    return sorted(found)


def _is_under(path: str, root: Path, split: str) -> bool:
    folders = Path(path).relative_to(root).parts[:-1]
    return any(split_of(folder) == split for folder in folders)


def _labels(names: Sequence[str], found: Iterable[str], where: str) -> dict[str, int]:
    """Returns the label of each class of ``found``, as it is written there."""
    known = {name: label for label, name in enumerate(names)}
    labels = {name: known.get(name, known.get(name.replace("_", " "), -1)) for name in found}
    if unknown := sorted(name for name, label in labels.items() if label < 0):
        raise UserError(
            f"{where}: {len(unknown)} of the classes have no class name: {first_few(unknown)}"
        )
    return labels


def draw_splits(videos: Sequence[Video], val: float, test: float, seed: int = 0) -> list[Video]:
    """Moves random fractions of the training videos of each class to "val" and to "test".

    A split that has videos of its own keeps to them, and a warning says so. The draw depends on the
    seed and the order of the videos, nothing else.

    Raises:
        UserError: fractions that are negative, or leave nothing to train on.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(f"fractions must be positive and sum to less than 1, got {val} and {test}")
    given = Counter(video.split for video in videos)
    for split, share in (("val", val), ("test", test)):
        if share and given[split]:
            text = (
                "There are %d %s videos already: --%s %g is ignored, none is moved there from train"
            )
            logger.warning(text, given[split], split, split, share)
    val, test = (0.0 if given["val"] else val), (0.0 if given["test"] else test)
    by_class: dict[int, list[int]] = {}
    for index, video in enumerate(videos):
        if video.split == "train":
            by_class.setdefault(video.label, []).append(index)
    drawn = list(videos)
    for label, members in by_class.items():
        order = np.random.default_rng([seed, label]).permutation(members)
        num_val, num_test = round(val * len(order)), round(test * len(order))
        for place, index in enumerate(order[: num_val + num_test]):
            split = "val" if place < num_val else "test"
            drawn[index] = Video(videos[index].path, label, split)
    return drawn


@dataclass(frozen=True)
class Work:
    """How the files are gone through: processes, seconds for one file, all frames or three."""

    num_workers: int = 2
    timeout: float = 300.0
    every_frame: bool = False


def prepare(
    plan: Plan,
    out: Path,
    encoding: Encoding | None = None,
    reencode_dir: Path | None = None,
    work: Work = Work(),
    relative: bool = False,
) -> dict[str, int]:
    """Checks every video, re-encodes it where asked, and writes what is good and what is bad.

    Into ``out``: ``{train,val,test}.csv`` (``path label``; without test videos, test.csv is
    val.csv), ``bad_videos.csv`` (path, reason), ``videos.csv`` (what each good file is) and
    ``class_names.json``. Re-encoded files go to ``reencode_dir`` in the folders of their sources,
    and stay where they are found there again, whole. Paths inside ``out`` are relative to it, with
    ``relative`` all of them: such lists can be moved together with their videos.

    Returns:
        The number of videos in each list, and of bad ones.

    Raises:
        UserError: no video is good, or ``reencode_dir`` holds files of another encoding.
        OSError: the disk refuses.
    """
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out):  # before hours of work, not after them: can the lists go there?
        pass
    paths = sorted({video.path for video in plan.videos})
    targets: dict[str, str] = {}
    if reencode_dir is not None:
        encoding = encoding or Encoding()
        targets = _targets(paths, plan.root, reencode_dir, encoding)
    job = partial(_process, encoding=encoding, every_frame=work.every_frame)
    items = [(path, targets.get(path)) for path in paths]
    results = run_guarded(job, items, work.num_workers, work.timeout, preload=[__name__])
    facts: dict[str, VideoFacts] = {}
    bad = list(plan.bad)
    bar = tqdm(results, total=len(items), unit="video", disable=None)
    for index, result in bar:
        path = paths[index]
        if isinstance(result, OSError):
            raise result
        reason = result.reason if isinstance(result, Failure) else _unlistable(path)
        if reason:
            bad.append((path, reason))
            bar.set_postfix(bad=len(bad))
        else:
            facts[path] = result
    return _write_lists(plan, out, facts, bad, targets, relative)


def _process(
    item: tuple[str, str | None], encoding: Encoding | None, every_frame: bool
) -> VideoFacts | Failure | OSError:
    """Checks one file, and the one made of it; runs in a worker."""
    source, target = item
    try:
        if target is None:
            return check_video(source, every_frame)
        if os.path.exists(target):
            try:
                return check_video(target)
            except VideoError:
                pass  # damaged, as by a loss of power: it is made again
        assert encoding is not None
        reencode(source, Path(target), encoding)
        return check_video(target)
    except VideoError as error:
        return Failure(error.reason if error.path == source else str(error))
    except OSError as error:  # of the target: no other file will fare better
        return OSError(error.errno, error.strerror, target)


def _unlistable(path: str) -> str | None:
    return "has a line break in its name" if {"\n", "\r"} & set(path) else None


def _targets(paths: Sequence[str], root: Path, folder: Path, encoding: Encoding) -> dict[str, str]:
    """Returns where the re-encoded file of each goes: its place below root, as mp4.

    The folder takes files of one encoding only, and is not read as their source.
    """
    if folder.resolve().is_relative_to(root.resolve()):
        raise UserError(f"re-encoded files cannot go to {folder}: it lies in their source, {root}")
    claim(folder / _SETTINGS, {**asdict(encoding), "version": _VERSION})
    inside = {path: Path(path).relative_to(root) for path in paths}
    count = Counter(path.with_suffix("") for path in inside.values())
    targets = {}
    for path, place in inside.items():
        alone = count[place.with_suffix("")] == 1 or place.suffix == ".mp4"
        targets[path] = str(folder / (place.with_suffix(".mp4") if alone else f"{place}.mp4"))
    if len(set(targets.values())) < len(targets):
        [(target, _)] = Counter(targets.values()).most_common(1)
        raise UserError(f"two files would be re-encoded to {target}: rename one of them")
    return targets


def _write_lists(
    plan: Plan,
    out: Path,
    facts: dict[str, VideoFacts],
    bad: list[tuple[str, str]],
    targets: dict[str, str],
    relative: bool,
) -> dict[str, int]:
    write_csv(out / "bad_videos.csv", [("path", "reason"), *sorted(bad)])
    good = [video for video in plan.videos if video.path in facts]
    if not good and not bad:
        raise UserError(f"there are no files that end like videos under {plan.root}")
    if not good:
        raise UserError(f"none of the {len(bad)} videos can be used: see {out / 'bad_videos.csv'}")
    _warn_of_thin_classes(plan.names, Counter(v.label for v in good if v.split == "train"))
    listed = {path: _listed(targets.get(path, path), out, relative) for path in facts}
    lines = dict.fromkeys(SPLITS, "")
    for split in SPLITS:
        lines[split] = "".join(
            f"{listed[video.path]} {video.label}\n" for video in good if video.split == split
        )
    if not lines["test"]:
        if lines["val"]:
            logger.warning(
                "There are no test videos: test.csv is a copy of val.csv, so the test of the "
                "checkpoint that validated best is too optimistic. --test holds videos out"
            )
        lines["test"] = lines["val"]
    for split in SPLITS:
        write_whole(out / f"{split}.csv", lines[split])
    rows = [
        [listed[v.path], v.split, plan.names[v.label], v.label, *astuple(facts[v.path])]
        for v in good
    ]
    header = ["path", "split", "class", "label", "frames", "fps", "height", "width"]
    write_csv(out / "videos.csv", [header, *rows])
    names = {name: label for label, name in enumerate(plan.names)}
    write_whole(out / "class_names.json", json.dumps(names, indent=2) + "\n")
    return {**{split: lines[split].count("\n") for split in SPLITS}, "bad": len(bad)}


def _warn_of_thin_classes(names: Sequence[str], counts: Counter[int]) -> None:
    """Warns of classes with no training video or one; not if there are no training videos."""
    if not counts:
        return
    if len(names) == 1:
        logger.warning("There is one class, %s: does --tree name the right folder?", names[0])
    empty = [name for label, name in enumerate(names) if not counts[label]]
    if empty:
        text = "%d of %d classes %s no training videos: %s"
        have = "has" if len(empty) == 1 else "have"
        logger.warning(text, len(empty), len(names), have, first_few(empty))
    single = [name for label, name in enumerate(names) if counts[label] == 1]
    if len(single) * 2 > len(names) > 1:
        text = "%d of %d classes have a single training video: %s. Are these folders classes?"
        logger.warning(text, len(single), len(names), first_few(single))


def _listed(path: str, out: Path, relative: bool) -> str:
    """Returns a path as the lists have it: relative if it is in their folder, or on demand."""
    full, folder = os.path.abspath(path), os.path.abspath(out)
    if os.path.commonpath([full, folder]) != folder:
        if not relative:
            return full
        folder = os.path.realpath(folder)  # ".." leads out of where a link points to
    inside = os.path.relpath(full, folder)
    return f"./{inside}" if inside.startswith(_MEANING) else inside
