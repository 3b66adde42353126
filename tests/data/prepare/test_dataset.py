"""Lists and files made by tools/prepare_dataset.py."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from octvideo.data.prepare.dataset import (
    Video,
    draw_splits,
    plan_of_annotations,
    plan_of_tree,
    prepare,
)
from octvideo.data.prepare.reencode import Encoding, check_video, reencode
from octvideo.data.read.video import VideoError, VideoReader
from octvideo.data.sources.lists import read_list
from octvideo.data.synthetic.scenes import ACTIONS, render_clip
from octvideo.data.synthetic.videos import write_video
from octvideo.utils.errors import UserError
from support import ROOT, SHARED
from support.commands import run_tool

BAD_CONTENT = {"empty.mp4": b"", "text.mp4": b"this is no video\n" * 50}
REAL = [
    SHARED / "videos" / name
    for name in ("good/mmaction2_part0.mp4", "good/mmaction2_test.avi", "odd/rot90.mp4",
                 "odd/vfr.mp4", "odd/odd444.mp4", "odd/h264_10bit.mp4", "odd/oneframe.mp4")
]  # fmt: skip


def clip(path: Path, frames: int = 20, size: tuple[int, int] = (48, 64), gop: int = 250) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, render_clip([frames, *size], ACTIONS[0], frames, *size, 25), 25, gop=gop)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Classes "a class" with 3 and b_class with 2 good videos, and bad ones."""
    root = tmp_path_factory.mktemp("tree") / "videos of mine"
    for index in range(3):
        clip(root / "b_class" / f"{index}.mp4", frames=20 + index)
    for index in range(2):
        clip(root / "a class" / "inner" / f"clip {index}.mp4", frames=5 + index)
    for name, content in BAD_CONTENT.items():
        (root / "b_class" / name).write_bytes(content)
    (root / "b_class" / "notes.txt").write_text("no video, and not listed")
    clip(root / "stray.mp4")
    return root


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tree_to_lists(tree, tmp_path):
    counts = prepare(plan_of_tree(tree), tmp_path / "out")
    out = tmp_path / "out"
    assert counts == {"train": 5, "val": 0, "test": 0, "bad": 3}
    videos = read_list(out / "train.csv", num_classes=2)
    folders = [Path(path).relative_to(tree).parts[0] for path in videos.paths()]
    labels = dict(zip(folders, videos.labels.tolist(), strict=True))
    assert labels == {"a class": 0, "b_class": 1}
    assert json.loads((out / "class_names.json").read_text()) == labels
    bad = {Path(row["path"]).name: row["reason"] for row in rows_of(out / "bad_videos.csv")}
    assert set(bad) == {*BAD_CONTENT, "stray.mp4"}
    assert all(bad.values())
    facts = {Path(row["path"]).name: row for row in rows_of(out / "videos.csv")}
    assert facts["2.mp4"]["frames"] == "22"
    assert (facts["2.mp4"]["height"], facts["2.mp4"]["width"]) == ("48", "64")
    assert float(facts["2.mp4"]["fps"]) == 25


def test_a_full_disk_is_told_with_the_file(tree, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("octvideo.utils.files._sync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*bad_videos.csv'"):
        prepare(plan_of_tree(tree), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_given_splits(tmp_path):
    for split, count in (("train", 2), ("val", 1)):
        for index in range(count):
            for name in ("x", "y"):
                clip(tmp_path / "data" / split / name / f"{split}{index}.mp4", frames=3)
    out = tmp_path / "data"  # lists beside the videos have relative paths
    assert prepare(plan_of_tree(tmp_path / "data"), out) == {
        "train": 4, "val": 2, "test": 2, "bad": 0,
    }  # fmt: skip
    assert (out / "test.csv").read_text() == (out / "val.csv").read_text()
    assert sorted((out / "val.csv").read_text().split()) == [
        "0", "1", "val/x/val0.mp4", "val/y/val0.mp4",
    ]  # fmt: skip


PAIRS = [
    ("train", "valid"), ("Train", "Val"), ("TRAIN", "TEST"), ("training", "validation"),
    ("train", "dev"), ("videos_train", "videos_val"), ("train_256", "val_256"),
    ("trainset", "testset"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_pair_of_folders_that_reads_like_splits_is_splits(tmp_path, first, second):
    for split, name in ((first, "a"), (first, "b"), (second, "a"), (second, "b")):
        touch(tmp_path / split / name / f"{split}{name}.mp4")
    plan = plan_of_tree(tmp_path)
    assert plan.names == ["a", "b"]
    other = "test" if "test" in second.lower() else "val"
    assert {(Path(v.path).parent.parent.name, v.split, v.label) for v in plan.videos} == {
        (first, "train", 0), (first, "train", 1), (second, other, 0), (second, other, 1),
    }  # fmt: skip


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "validation", "thumbnails"),
        ("train", "holdout"),
        ("train", "validation_clips"),
        ("videos_train", "videos_val", "annotations"),
    ],
)
def test_folders_of_which_some_read_like_splits_are_asked_about(tmp_path, folders):
    for folder in folders:
        touch(tmp_path / folder / "x" / "a.mp4")
    with pytest.raises(UserError, match=r"--layout classes.* --layout splits"):
        plan_of_tree(tmp_path)
    assert plan_of_tree(tmp_path, layout="classes").names == sorted(folders)
    plan = plan_of_tree(tmp_path, layout="splits")
    assert plan.names == ["x"]
    assert {video.split for video in plan.videos} <= {"train", "val"}


def test_classes_may_be_called_like_a_split(tmp_path):
    for name in ("car", "train", "training dog", "taking a test"):
        touch(tmp_path / name / "a.mp4")
    assert plan_of_tree(tmp_path).names == ["car", "taking a test", "train", "training dog"]


def test_two_folders_for_one_split(tmp_path):
    for name in ("train", "Training"):
        touch(tmp_path / name / "x" / "a.mp4")
    with pytest.raises(UserError, match=r"two folders for the split train, Training and train"):
        plan_of_tree(tmp_path)


def test_a_folder_that_is_a_class_itself_is_said(tmp_path, caplog):
    for index in range(3):
        touch(tmp_path / f"{index}.mp4")
    with pytest.raises(UserError, match="holds 3 videos itself: is it a class"):
        plan_of_tree(tmp_path)
    touch(tmp_path / "more" / "a.mp4")
    assert len(plan_of_tree(tmp_path).bad) == 3
    assert "3 videos, such as" in caplog.text
    assert "the classes are more" in caplog.text


def test_splits_inside_of_classes_are_said(tmp_path, caplog):
    for name in ("a", "b"):
        touch(tmp_path / name / "train" / "1.mp4")
        touch(tmp_path / name / "actors" / "2.mp4")
    assert plan_of_tree(tmp_path).names == ["a", "b"]
    assert not caplog.text
    touch(tmp_path / "b" / "Val" / "3.mp4")
    assert len(plan_of_tree(tmp_path).videos) == 5
    assert "read like splits (train, val)" in caplog.text


def test_classes_of_a_single_video_are_said(tmp_path, caplog):
    for index in range(3):
        clip(tmp_path / "v" / f"video{index}" / "a.mp4", frames=1)
    prepare(plan_of_tree(tmp_path / "v"), tmp_path / "out")
    assert "3 of 3 classes have a single training video: video0, video1, video2" in caplog.text


def test_what_does_not_end_like_a_video_is_told(tmp_path, caplog):
    for name in ("a.MTS", "b.txt", "c.txt", ".d.mp4", ".e"):
        (tmp_path / "v" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / "x" / name).touch()
    plan = plan_of_tree(tmp_path / "v")
    assert [Path(video.path).name for video in plan.videos] == ["a.MTS"]
    assert "left out: 2 of .txt" in caplog.text
    (tmp_path / "v" / "x" / "a.MTS").unlink()
    with pytest.raises(UserError, match="no files that end like videos"):
        prepare(plan_of_tree(tmp_path / "v"), tmp_path / "out")


def test_drawn_splits_are_stratified_and_repeatable():
    videos = [Video(f"{label}/{i}", label, "train") for label in range(3) for i in range(20)]
    drawn = draw_splits(videos, 0.1, 0.2, seed=4)
    assert [video.path for video in drawn] == [video.path for video in videos]
    assert Counter((v.label, v.split) for v in drawn) == {
        (label, split): count
        for label in range(3)
        for split, count in (("train", 14), ("val", 2), ("test", 4))
    }
    assert drawn == draw_splits(videos, 0.1, 0.2, seed=4)
    assert drawn != draw_splits(videos, 0.1, 0.2, seed=5)
    with pytest.raises(UserError):
        draw_splits(videos, 0.5, 0.5)


def test_a_split_with_videos_of_its_own_keeps_to_them(caplog):
    videos = [Video(f"{i}", 0, "train") for i in range(20)]
    videos += [Video(f"v{i}", 0, "val") for i in range(3)]
    drawn = draw_splits(videos, 0.1, 0.2)
    assert Counter(v.split for v in drawn) == {"train": 16, "val": 3, "test": 4}
    [warning] = caplog.records
    assert "3 val videos" in warning.getMessage()
    assert {v.path for v in drawn if v.split == "val"} == {"v0", "v1", "v2"}


def test_a_test_list_that_repeats_the_validation_is_said(tmp_path, caplog):
    for split, count in (("train", 3), ("Valid", 2)):
        for index in range(count):
            clip(tmp_path / "v" / split / "a" / f"{index}.mp4", frames=2)
    counts = prepare(plan_of_tree(tmp_path / "v"), tmp_path / "out")
    assert counts == {"train": 3, "val": 2, "test": 2, "bad": 0}
    assert [r.levelname for r in caplog.records if "copy of val.csv" in r.message] == ["WARNING"]


ANNOTATION = """label,youtube_id,time_start,time_end,split,is_cc
"shot put",_ab-cdefghi,3,13,train,0
archery,0123456789a,100,110,train,0
archery,0123456789b,0,10,validate,1
archery,missing0000,5,15,train,0
,unlabelled00,5,15,test,0
"""


@pytest.mark.parametrize("layout", ["{stem}.mp4", "{split}/{stem}.mkv", "{split}/{label}/{id}.mp4"])
def test_annotations(tmp_path, caplog, layout):
    (tmp_path / "k.csv").write_text(ANNOTATION)
    rows = [
        ("_ab-cdefghi", "_ab-cdefghi_000003_000013", "train", "shot put"),
        ("0123456789a", "0123456789a_000100_000110", "train", "archery"),
        ("0123456789b", "0123456789b_000000_000010", "val", "archery"),
    ]
    root = tmp_path / "videos"
    for name, stem, split, label in rows:
        path = root / layout.format(id=name, stem=stem, split=split, label=label)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    plan = plan_of_annotations([tmp_path / "k.csv"], root)
    assert plan.names == ["archery", "shot put"]
    assert [(v.split, v.label) for v in plan.videos] == [("train", 1), ("train", 0), ("val", 0)]
    assert [path for path, _ in plan.bad] == ["missing0000_000005_000015.mp4"]
    assert "1 rows without a label" in caplog.text
    assert "--class-names kinetics400" in caplog.text  # both are classes of it
    plan = plan_of_annotations([tmp_path / "k.csv"], root, ["x", "shot put", "archery"])
    assert [v.label for v in plan.videos] == [1, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,youtube_id\na,b\n", "no column split, time_end, time_start"),
        (ANNOTATION.replace("validate", "third"), r"k\.csv, line 4: the split is 'third'"),
        (ANNOTATION.replace("100,110", "x,110"), r"k\.csv, line 3: time_start"),
        (ANNOTATION.splitlines()[0] + "\n", "no labelled rows"),
    ],
)
def test_annotations_that_are_wrong(tmp_path, text, message):
    (tmp_path / "k.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        plan_of_annotations([tmp_path / "k.csv"], tmp_path)


def test_links_that_lead_in_circles(tmp_path):
    clip(tmp_path / "v" / "c" / "a.mp4")
    clip(tmp_path / "elsewhere" / "b.mp4")
    (tmp_path / "v" / "c" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "v" / "c" / "up").symlink_to(tmp_path / "v")
    (tmp_path / "v" / "c" / "self").symlink_to(".")
    plan = plan_of_tree(tmp_path / "v")
    assert sorted(Path(video.path).name for video in plan.videos) == ["a.mp4", "b.mp4"]


def test_a_place_where_no_list_can_go_is_told_before_the_work(tree, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(
        "octvideo.data.prepare.dataset.run_guarded", lambda *_, **__: pytest.fail("work")
    )
    with pytest.raises(OSError, match="file"):
        prepare(plan_of_tree(tree), tmp_path / "file")


def test_damaged_settings_of_an_encoding(tree, tmp_path):
    (tmp_path / "reencode.json").write_text("{")
    with pytest.raises(UserError, match=r"reencode\.json is damaged"):
        prepare(plan_of_tree(tree), tmp_path / "out", reencode_dir=tmp_path)


def test_names_decide_on_labels(tree, tmp_path):
    names = ["b class", "a class"]
    plan = plan_of_tree(tree, names)
    assert {(Path(v.path).relative_to(tree).parts[0], v.label) for v in plan.videos} == {
        ("a class", 1),
        ("b_class", 0),
    }
    with pytest.raises(UserError, match="b_class"):
        plan_of_tree(tree, ["a class"])
    with pytest.raises(UserError, match="no folder"):
        plan_of_tree(tmp_path / "none")
    with pytest.raises(UserError, match="no class folders"):
        plan_of_tree(tmp_path)


# Re-encoding


def keyframe_distances(path: Path) -> list[int]:
    """Frames from keyframe to keyframe, and from the last one to the end; independent of ours."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        assert not container.streams.audio
    keys = [n for n, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[0] == 0
    return np.diff([*keys, len(packets)]).tolist()


def luma_psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the brightness: 4:2:0 halves the colours of sharp edges, whoever encodes."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    error = ((a - b) * weights).sum(1).square().mean()
    return float(10 * torch.log10(255**2 / error))


def frames_of(path: Path) -> torch.Tensor:
    with VideoReader(path) as reader:
        frames = reader.get_frames(range(reader.num_frames))
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(p, marks=[pytest.mark.slow] * (p.name in ("vfr.mp4", "odd444.mp4")))
        for p in REAL
    ],
    ids=lambda path: path.name,
)
def test_real_files_reencoded(shared, tmp_path, source):
    target = tmp_path / "deep" / "small.mp4"
    reencode(source, target)
    assert max(keyframe_distances(target)) <= 12
    facts, before = check_video(target, every_frame=True), check_video(source, every_frame=True)
    assert min(facts.height, facts.width) == 256
    assert (facts.height > facts.width) == (before.height > before.width)
    assert facts.frames == before.frames
    assert facts.fps == pytest.approx(before.fps, rel=1e-5)
    some = slice(0, None, max(1, facts.frames // 8))
    wanted = F.interpolate(
        frames_of(source)[some], (facts.height, facts.width), mode="bicubic", antialias=True
    )
    made, wanted = frames_of(target)[some], wanted.clamp(0, 255)
    assert luma_psnr(made, wanted) > 35
    assert (made - wanted).mean((0, 2, 3)).abs().max() < 1.5  # no shift of any colour
    assert [p.name for p in target.parent.iterdir()] == ["small.mp4"]


@pytest.mark.parametrize("name", ["midcorrupt.mp4", "trunc_faststart.mp4", "zero.mp4"])
def test_damaged_files_are_not_reencoded(shared, tmp_path, name):
    with pytest.raises(VideoError, match=name):
        reencode(shared / "videos/bad" / name, tmp_path / "small.mp4")
    assert not list(tmp_path.iterdir())


def test_frames_stay_in_their_places(tmp_path):
    clip(tmp_path / "a.mp4", frames=50, size=(64, 96))
    reencode(tmp_path / "a.mp4", tmp_path / "b.mp4", Encoding(64, gop=5))
    assert max(keyframe_distances(tmp_path / "b.mp4")) <= 5
    a, b = frames_of(tmp_path / "a.mp4"), frames_of(tmp_path / "b.mp4")
    distance = (a[:, None] - b[None]).square().mean((2, 3, 4))
    assert distance.argmin(1).tolist() == list(range(50))


def test_one_source_makes_one_file(shared, tmp_path):
    source, made = (
        shared / "videos/good/mmaction2_part0.mp4",
        [tmp_path / "a.mp4", tmp_path / "b.mp4"],
    )
    with ThreadPoolExecutor(2) as pool:  # at the same time, so that their threads run differently
        list(pool.map(lambda target: reencode(source, target, Encoding(128)), made))
    a, b = (path.read_bytes() for path in made)
    assert a == b
    # x264 writes its settings into the file. With the macroblock tree, files differ now and then.
    assert b" mbtree=0 " in a
    assert b" threads=1 " in a


@pytest.mark.parametrize("wrong", [{"short_side": 255}, {"gop": 0}, {"crf": 60}])
def test_impossible_encodings(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Encoding(**wrong)


def test_lists_of_reencoded_files(tree, tmp_path):
    plan, out, small = plan_of_tree(tree), tmp_path / "out", tmp_path / "out" / "small"
    encoding = Encoding(short_side=32)
    assert prepare(plan, out, encoding, small)["train"] == 5
    videos = read_list(out / "train.csv")
    for path in videos.paths():
        assert Path(path).is_relative_to(small)
        assert min(keyframe_distances(Path(path))) >= 1
    before = {path: os.stat(path).st_mtime_ns for path in videos.paths()}
    assert prepare(plan, out, encoding, small)["train"] == 5
    assert before == {path: os.stat(path).st_mtime_ns for path in videos.paths()}
    emptied, cut = map(Path, videos.paths()[:2])
    content = cut.read_bytes()
    os.truncate(emptied, 0)  # a loss of power
    os.truncate(cut, len(content) // 2)
    assert prepare(plan, out, encoding, small)["train"] == 5
    assert cut.read_bytes() == content
    assert check_video(emptied, every_frame=True).frames > 0
    with pytest.raises(UserError, match="choose another"):
        prepare(plan, out, Encoding(short_side=34), small)
    with pytest.raises(UserError, match="lies in their source"):
        prepare(plan, out, encoding, tree / "small")


def test_files_that_differ_in_their_ending_stay_apart(tmp_path):
    clip(tmp_path / "v" / "c" / "a.mp4", frames=4)
    clip(tmp_path / "v" / "c" / "a.mov", frames=6)
    prepare(plan_of_tree(tmp_path / "v"), tmp_path, Encoding(32), tmp_path / "small")
    made = sorted((tmp_path / "small" / "c").iterdir())
    assert {p.name: check_video(p).frames for p in made} == {"a.mov.mp4": 6, "a.mp4": 4}


ODD_NAMES = [
    "a,b.mp4", "c;1.mp4", "d\te 2.mp4", "take 3.mp4", "#f.mp4", "~g.mp4", '"h".mp4', " i.mp4",
    "\ufeffj.mp4", "k\u2028l.mp4", "m\\n.mp4", "o\x0bp.mp4", "path,label.mp4", "é\udcff.mp4",
]  # fmt: skip


@pytest.mark.parametrize("relative", [True, False])
def test_what_is_written_is_read_again(tmp_path, relative):
    clip(tmp_path / "a.mp4", frames=1)
    for folder in ("beside", "inside"):
        for name in ODD_NAMES:
            target = tmp_path / folder / "videos" / "x" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(tmp_path / "a.mp4")
    for out in (tmp_path / "lists", tmp_path / "inside" / "videos" / "x"):
        root = tmp_path / ("beside" if out.name == "lists" else "inside") / "videos"
        assert prepare(plan_of_tree(root), out, relative=relative)["bad"] == 0
        found = read_list(out / "train.csv")
        assert sorted(map(os.path.realpath, found.paths())) == [str(tmp_path / "a.mp4")] * 14
        names = {Path(path).name for path in found.paths()}
        assert names == set(ODD_NAMES)
        moved = [not os.path.isabs(found.listed(i)) for i in range(14)]
        assert moved == [relative or out.name == "x"] * 14


TOOL = [sys.executable, str(ROOT / "tools/prepare_dataset.py")]


@pytest.mark.slow
def test_a_killed_run_is_taken_up_again(tmp_path):
    for index in range(8):
        clip(tmp_path / "v" / "c" / f"{index}.mp4", frames=60, size=(240, 320))
    small = tmp_path / "small" / "c"
    command = [*TOOL, "--tree", tmp_path / "v", "--out", tmp_path / "out"]
    command += ["--reencode", tmp_path / "small", "--workers", "1"]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(small.glob("*.mp4"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in small.glob("[0-9]*.mp4")}
    assert 2 <= len(done) < 8
    assert not (tmp_path / "out" / "train.csv").exists()
    assert all(check_video(path, every_frame=True).frames == 60 for path in done)
    subprocess.run(command, check=True, timeout=120)
    assert done == {path: path.stat().st_mtime_ns for path in done}
    assert sorted(p.name for p in small.iterdir()) == sorted(f"{i}.mp4" for i in range(8))
    assert len((tmp_path / "out" / "train.csv").read_text().splitlines()) == 8


@pytest.mark.parametrize("count", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_the_tool_on_good_and_bad_files(shared, tmp_path, count):
    """On all of them, or on the smallest."""
    files = {}
    for folder in ("good", "bad"):
        (tmp_path / "v" / folder).mkdir(parents=True)
        found = sorted((shared / "videos" / folder).iterdir(), key=lambda p: p.stat().st_size)
        files[folder] = found[:count]
        for path in files[folder]:
            (tmp_path / "v" / folder / path.name).symlink_to(path)
    words = ["--tree", tmp_path / "v", "--out", tmp_path / "out", "--every-frame"]
    done = run_tool("prepare_dataset.py", *words, timeout=300)
    assert done.returncode == 0, done.stderr
    bad = {Path(row["path"]).name for row in rows_of(tmp_path / "out" / "bad_videos.csv")}
    assert bad == {path.name for path in files["bad"]}
    assert len(read_list(tmp_path / "out" / "train.csv")) == (count or 12)
    assert f"{len(bad)} in {tmp_path / 'out' / 'bad_videos.csv'}" in done.stdout
    assert f"DATA.PATH_TO_DATA_DIR {tmp_path / 'out'} MODEL.NUM_CLASSES 2" in done.stdout
    assert "1 of 2 classes has no training videos: bad" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tree", "{tmp}/none"], "there is no folder"),
        (["--annotations", "{tmp}/train.csv", "--videos", "{tmp}"], "would overwrite"),
        (["--annotations", "{tmp}/a.csv"], "go together"),
        (["--tree", "{tree}", "--gop", "0"], "impossible encoding"),
        (["--tree", "{tree}", "--timeout", "0"], "must be at least 1, got 0"),
        (["--tree", "{tree}", "--class-names", "kinetics4"], "no class names kinetics4"),
    ],
)
def test_mistakes_at_the_command_line(tree, tmp_path, options, message):
    options = [option.format(tmp=tmp_path, tree=tree) for option in options]
    done = run_tool("prepare_dataset.py", *options, "--out", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
