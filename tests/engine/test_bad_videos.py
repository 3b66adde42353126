"""Unreadable files: named once, counted, and reason to stop where they are many."""

import csv
import logging
import os
import stat
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from octvideo.config import load_cfg
from octvideo.data.clips import collate_clips
from octvideo.data.sources import videos as reader_module
from octvideo.data.synthetic.videos import write_video
from octvideo.distributed.preemption import StopRequest
from octvideo.engine import run_test, run_train, train
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from octvideo.engine.log import log_json_stats
from octvideo.models import build_model
from octvideo.utils.errors import UserError
from support import ROOT
from support.processes import run_processes

pytestmark = pytest.mark.timeout(120)


def rows_of(folder: Path) -> list[dict[str, str]]:
    path = folder / "bad_videos.csv"
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def batch(*names: str, num_bad: int | None = None) -> dict:
    bad = [(name, 'is\nbroken, "really"') for name in names]
    return {"bad": bad, "num_bad": len(names) if num_bad is None else num_bad}


def test_each_is_named_once_also_by_a_run_that_goes_on(tmp_path, caplog):
    odd = os.fsdecode(b"a, b\xff.mp4")  # a name that is not UTF-8
    first = BadVideos(tmp_path)
    first.begin("train", 3, 10)
    first.add(batch("x.mp4", odd))
    first.begin("val", 4, 10)
    first.add(batch("x.mp4", "y.mp4"))
    first.close()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "octvideo"):
        second = BadVideos(tmp_path)
        second.begin("test", 0, 10)
        second.add(batch("y.mp4", odd, "z.mp4"))
        second.close()
    assert caplog.text.count("Unreadable file") == 1
    assert f"could not be read: 3, see {tmp_path / 'bad_videos.csv'}" in caplog.text
    rows = rows_of(tmp_path)
    assert [row["path"] for row in rows] == ["x.mp4", odd, "y.mp4", "z.mp4"]
    assert [row["split"] for row in rows] == ["train", "train", "val", "test"]
    assert [row["epoch"] for row in rows] == ["3", "3", "4", "0"]
    assert {row["reason"] for row in rows} == {'is broken, "really"'}


@pytest.mark.parametrize("cut", [1, 5, 30, 60])
def test_a_file_that_was_cut_off_is_mended(tmp_path, cut):
    first = BadVideos(tmp_path)
    first.add(batch("x.mp4", "y.mp4"))
    path = tmp_path / "bad_videos.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    BadVideos(tmp_path).add(batch("x.mp4", "y.mp4"))
    assert [row["path"] for row in rows_of(tmp_path)] == ["x.mp4", "y.mp4"]


def test_a_path_longer_than_any_field_of_the_csv_module(tmp_path):
    path = "a" * 140_000 + ".mp4"
    first = BadVideos(tmp_path)
    first.add(batch(path))
    first.close()
    again = BadVideos(tmp_path)
    again.add(batch(path, "b.mp4"))
    again.close()
    lines = (tmp_path / "bad_videos.csv").read_text().split("\n")
    assert [line.partition(",")[0][-5:] for line in lines] == ["path", "a.mp4", "b.mp4", ""]


def test_too_many_stop_the_run(tmp_path):
    videos = BadVideos(tmp_path, 0.1)
    videos.begin("train", 1, 100)
    for n in range(10):
        videos.add(batch(f"{n}.mp4", "again.mp4", num_bad=1))  # a replacement was bad, too
        videos.share()
    videos.begin("train", 2, 100)
    for n in range(11):
        videos.add(batch(f"{n}.mp4"))
    with pytest.raises(UserError, match=r"11 of the 100 files of train.*MAX_BAD_FRACTION"):
        videos.share()


def test_a_single_one_stops_no_run_however_short_the_list(tmp_path):
    videos = BadVideos(tmp_path, 0.1)
    videos.begin("val", 1, 4)
    videos.add(batch("a.mp4"))
    videos.share()
    videos.add(batch("b.mp4"))
    with pytest.raises(UserError, match=r"2 of the 4 files of val"):
        videos.share()
    strict = BadVideos(tmp_path, 0)
    strict.begin("val", 1, 4)
    strict.add(batch("a.mp4"))
    with pytest.raises(UserError, match=r"1 of the 4 files of val"):
        strict.share()


def test_a_file_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "bad_videos.csv").mkdir()
    with pytest.raises(UserError, match=r"bad_videos\.csv"):
        BadVideos(tmp_path)
    videos = BadVideos(tmp_path / "gone")
    with pytest.raises(UserError, match=r"cannot write .*bad_videos\.csv"):
        videos.add(batch("x.mp4"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk")
@pytest.mark.parametrize("name", ["bad_videos.csv", "json_stats.log"])
def test_a_full_disk_is_told(tmp_path, name):
    videos = BadVideos(tmp_path)
    (tmp_path / name).symlink_to("/dev/full")
    write = {
        "bad_videos.csv": lambda: videos.add(batch("x.mp4")),
        "json_stats.log": lambda: log_json_stats({"loss": 1.0}, tmp_path),
    }[name]
    with pytest.raises(UserError, match=rf"cannot write .*{name}: No space left"):
        write()


# ---------------------------------------------------------------------- several processes


def _share(rank: int, folder: Path) -> str:
    videos = BadVideos(folder, 0.4)
    videos.begin("train", 1, 10)
    videos.add(batch("both.mp4", f"of {rank}.mp4"))
    videos.share()
    videos.add(batch("both.mp4") if rank else batch())
    with pytest.raises(UserError) as caught:
        videos.share()
    torch.distributed.barrier()  # one that ends must not take the answer of the other along
    return str(caught.value)


def test_processes_have_one_file_and_stop_together(tmp_path):
    messages = run_processes(_share, 2, tmp_path / "processes", tmp_path, timeout=100)
    rows = [row["path"] for row in rows_of(tmp_path)]
    assert sorted(rows) == ["both.mp4", "of 0.mp4", "of 1.mp4"]
    assert all(message.startswith("5 of the 10 files") for message in messages)


def _lose_a_batch(rank: int, opts: list[str]) -> str:
    """The third batch of the second process has no video at all."""
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", opts)
    trainer = train.build_trainer(cfg, train.start_run(cfg))
    loader = trainer.train_loader

    class Losing:
        sampler, dataset, num_workers = loader.sampler, loader.dataset, 0

        def __iter__(self):
            for number, good in enumerate(loader):
                if (rank, number) == (1, 2):
                    good = collate_clips([{"views": [], "bad": [("z.mp4", "gone")]}])
                yield good

    trainer.train_loader = Losing()
    trainer.start()
    with StopRequest() as stop, pytest.raises(UserError) as caught:
        trainer.run(stop)
    torch.distributed.barrier()
    assert trainer.progress.step == 2
    return str(caught.value)


@pytest.mark.slow
def test_processes_stop_together_where_one_has_no_video_of_a_batch(tiny_opts, tmp_path):
    messages = run_processes(_lose_a_batch, 2, tmp_path / "processes", tiny_opts, timeout=100)
    assert messages == ["no video of a batch could be read, nor any in their place"] * 2
    assert [row["path"] for row in rows_of(tmp_path / "run")] == ["z.mp4"]
    assert not list_checkpoints(tmp_path / "run/checkpoints")


def _test(rank: int, opts: list[str]) -> dict:
    return run_test(load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", opts))


@pytest.mark.slow
def test_the_file_of_a_test_has_what_each_process_met(tiny_set, tiny_opts, tmp_path):
    bad = [tmp_path / f"missing {n}.mp4" for n in range(2)]
    good = videos_of(tiny_set, "test")
    opts = [*tiny_opts, *lists(tmp_path, good, [*good[:2], *bad]), "TRAIN.ENABLE", "False"]
    opts += ["TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "model.pyth")]
    opts += ["DATA.MAX_BAD_FRACTION", "0.5"]
    model = build_model(load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", opts))
    save_checkpoint(tmp_path / "model.pyth", {"epoch": 0, "model_state": model.state_dict()})
    main, other = run_processes(_test, 2, tmp_path / "processes", opts, timeout=100)
    assert (main["num_videos"], main["num_missing"], other) == (2, 2, {})
    assert sorted(row["path"] for row in rows_of(tmp_path / "run")) == [str(path) for path in bad]


# ---------------------------------------------------------------------- every kind of file


def make_bad_files(folder: Path) -> dict[str, Path]:
    """More than twenty kinds of files that are no videos, by what is wrong with them."""
    frames = np.random.default_rng(0).integers(0, 256, (24, 48, 64, 3), dtype=np.uint8)
    write_video(folder / "good.mp4", frames, fps=24)
    good = (folder / "good.mp4").read_bytes()
    with av.open(str(folder / "matroska.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height = 64, 48
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    matroska = (folder / "matroska.mkv").read_bytes()
    tone = np.zeros((1, 4800), np.int16)
    for name, form, codec in (("audio", "mp4", "aac"), ("wave", "wav", "pcm_s16le")):
        with av.open(str(folder / f"{name}.{form}"), "w", format=form) as container:
            stream = container.add_stream(codec, rate=48000)
            sound = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            sound.sample_rate = 48000
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
    half = len(good) // 2
    noise = np.random.default_rng(1).bytes
    data = good.index(b"mdat") + 4
    contents = {
        "empty": b"",
        "one byte": b"x",
        "text": b"no video, but some words " * 50,
        "noise": noise(5000),
        "zeros": bytes(5000),
        "a page of errors": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
        "a zip": b"PK\x03\x04" + noise(3000),
        "gzip": b"\x1f\x8b\x08\x00" + noise(3000),
        "a pickle": b"\x80\x04cos\nsystem\n\x8c\x09echo oops\x85R.",
        "cut in the middle": good[:half],
        "header only": good[:40],
        "second half": good[half:],
        "without its index": good.replace(b"moov", b"abcd"),
        "data of noise": good[:data] + noise(len(good) - data),
        "data of zeros": good[:data]
        + bytes(good.index(b"moov", data) - 4 - data)
        + good[good.index(b"moov", data) - 4 :],
        "matroska, cut early": matroska[:300],
        "matroska, noise after its header": matroska[:600] + noise(4000),
        "an avi header": b"RIFF\xff\xff\xff\x7fAVI LIST",
        "subtitles": b"1\n00:00:00,000 --> 00:00:02,000\nHello\n\n",
        "sound only": (folder / "audio.mp4").read_bytes(),
        "sound only, wav": (folder / "wave.wav").read_bytes(),
    }
    found = {}
    for name, content in contents.items():
        found[name] = folder / f"{name}.mp4"
        found[name].write_bytes(content)
    found["missing"] = folder / "missing.mp4"
    found["a folder"] = folder / "folder.mp4"
    found["a folder"].mkdir()
    found["a pipe"] = folder / "pipe.mp4"
    os.mkfifo(found["a pipe"])
    found["a link to nothing"] = folder / "dangling.mp4"
    found["a link to nothing"].symlink_to(folder / "nothing.mp4")
    found["a link to itself"] = folder / "loop.mp4"
    found["a link to itself"].symlink_to(found["a link to itself"])
    found["a device"] = Path("/dev/zero")
    found["a name that is too long"] = folder / f"{'x' * 300}.mp4"
    found["below a file"] = folder / "text.mp4" / "x.mp4"
    if os.geteuid():  # root may read it
        found["no permission"] = folder / "closed.mp4"
        found["no permission"].write_bytes(good)
        found["no permission"].chmod(stat.S_IWUSR)
    return found


def lists(folder: Path, train: list[Path], others: list[Path]) -> list[str]:
    for split, paths in (("train", train), ("val", others), ("test", others)):
        rows = [f"{path} {number % 4}" for number, path in enumerate(paths)]
        (folder / f"{split}.csv").write_text("\n".join(rows))
    return ["DATA.PATH_TO_DATA_DIR", str(folder)]


def videos_of(tiny_set: Path, split: str) -> list[Path]:
    rows = (tiny_set / f"{split}.csv").read_text().splitlines()
    return [tiny_set / row.rsplit(" ", 1)[0] for row in rows]


def test_every_kind_is_survived_named_and_counted(tiny_set, tiny_opts, tmp_path):
    folder = tmp_path / "bad files"
    folder.mkdir()
    bad = make_bad_files(folder)
    assert len(bad) >= 20
    good = videos_of(tiny_set, "train")
    opts = lists(tmp_path, [*good[:12], *bad.values()], good[12:16])
    limit = len(bad) / (len(bad) + 12)
    base = [*tiny_opts, *opts, "SOLVER.MAX_EPOCH", "1", "BN.USE_PRECISE_STATS", "False"]
    base += ["TRAIN.BATCH_SIZE", "6", "DATA.MAX_BAD_FRACTION"]
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*base, str(limit)])
    run_train(cfg)
    rows = rows_of(Path(cfg.OUTPUT_DIR))
    named = [row["path"] for row in rows]
    in_last_batch = (len(bad) + 12) % 6  # what is left over of an epoch is not read
    assert len(set(named)) == len(named) >= len(bad) - in_last_batch
    assert set(named) <= set(map(str, bad.values()))
    assert all(row["reason"] and row["epoch"] == "1" for row in rows)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert log.count("Unreadable file") == len(named)
    assert f"Files that could not be read: {len(named)}" in log


def test_a_run_stops_where_too_many_are_bad(tiny_set, tiny_opts, tmp_path):
    good = videos_of(tiny_set, "train")
    missing = [tmp_path / f"missing {n}.mp4" for n in range(6)]
    opts = lists(tmp_path, [*good[:18], *missing], good[:4])
    cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*tiny_opts, *opts])
    with pytest.raises(UserError, match=r"of the 24 files of train .*bad_videos\.csv"):
        run_train(cfg)
    assert {row["reason"] for row in rows_of(Path(cfg.OUTPUT_DIR))} == {"no such file"}


@pytest.mark.slow
def test_training_goes_on_as_if_what_crashes_were_unreadable(
    tiny_set, tiny_opts, tmp_path, monkeypatch
):
    get = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(get, "__defaults__", (0.5,))  # seconds between looks for dead workers
    good = videos_of(tiny_set, "train")
    opts = [*tiny_opts, *lists(tmp_path, good[:12], good[12:16]), "DATA.MAX_BAD_FRACTION", "0.3"]
    doomed = {str(good[3]), str(good[13])}

    class Crashing(reader_module.VideoReader):
        def __init__(self, path, **kwargs):
            if path in doomed:
                os.abort()
            super().__init__(path, **kwargs)

    class Broken(reader_module.VideoReader):
        def __init__(self, path, **kwargs):
            if path in doomed:
                raise reader_module.VideoError(path, "the process ended by SIGABRT")
            super().__init__(path, **kwargs)

    results = []
    for reader, workers in ((Crashing, 2), (Broken, 0)):
        monkeypatch.setattr(reader_module, "VideoReader", reader)
        more = ["DATA_LOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", str(tmp_path / str(workers))]
        cfg = load_cfg(ROOT / "configs/Synthetic/OCT_I3D.yaml", [*opts, *more])
        run_train(cfg)
        newest = list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")[-1]
        results.append((load_checkpoint(newest)["model_state"], rows_of(Path(cfg.OUTPUT_DIR))))
    (ours, our_rows), (theirs, their_rows) = results
    assert our_rows == their_rows
    assert {row["path"] for row in our_rows} == doomed
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
