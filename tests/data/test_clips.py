import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from octvideo.config.notation import RandAugmentSpec
from octvideo.data import VideoReader, view
from octvideo.data.augment import Augmentation, ClipTransform, RandAugment, RandomErasing
from octvideo.data.clips import AllViews, RandomClips, collate_clips
from octvideo.data.protocol import Protocol
from octvideo.data.read import frames as frames_module
from octvideo.data.read.frames import Convert, Frames
from octvideo.data.sampling import crop_offsets, view_start
from octvideo.data.sources import FileList, source_of
from octvideo.data.sources import videos as video_source
from octvideo.data.sources.lists import read_list
from octvideo.data.synthetic.videos import write_video
from octvideo.data.transforms import TrainTransform

PROTOCOL = Protocol(num_frames=4, sampling_rate=4, crop_size=32)
TRANSFORM = ClipTransform(TrainTransform(jitter_scales=(36, 44), crop_size=32))
VIDEOS = source_of("kinetics")


def random_clips(files: FileList, transform: ClipTransform = TRANSFORM, **more: Any) -> RandomClips:
    return RandomClips(files, VIDEOS, more.pop("protocol", PROTOCOL), transform, **more)


def views_of(files: FileList, num_clips: int = 10, num_crops: int = 3) -> AllViews:
    return AllViews(files, VIDEOS, replace(PROTOCOL, num_clips=num_clips, num_crops=num_crops))


def middle_views(files: FileList) -> AllViews:
    return AllViews(files, VIDEOS, PROTOCOL.one_view())


def only_view(item: dict[str, Any]) -> torch.Tensor:
    """The video of an item of one view."""
    [video] = collate_clips([item])["video"]
    return video


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six clips of several sizes, rates and lengths; odd ones are broken."""
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    sizes = [(40, 64), (64, 40), (32, 44)]
    for n, (h, w) in enumerate(sizes):
        frames = rng.integers(0, 256, ((50, 9, 70)[n], h, w, 3), dtype=np.uint8)
        write_video(root / f"{2 * n}.mp4", frames, fps=(30, 15, 24)[n])
        (root / f"{2 * n + 1}.mp4").write_bytes(b"no video")
    return root


def videos(folder: Path, numbers: list[int]) -> FileList:
    return FileList.from_rows(((f"{n}.mp4", n) for n in numbers), prefix=str(folder))


def decode(path: Path | str) -> torch.Tensor:
    """All frames, one after another, without our reader: float32 (T, 3, H, W)."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).float().permute(0, 3, 1, 2)


def resized(frames: torch.Tensor, short: int) -> torch.Tensor:
    """Whole frames with the short side `short`, by torch."""
    h, w = frames.shape[2:]
    size = (short, int(w / h * short)) if h <= w else (int(h / w * short), short)
    return F.interpolate(frames, size=size, mode="bilinear", align_corners=False)


# ------------------------------------------------------------------------------------------ lists


def write_list(tmp_path: Path, text: str) -> Path:
    (tmp_path / "train.csv").write_bytes(text.encode())
    return tmp_path / "train.csv"


def test_list(tmp_path):
    text = (
        "\ufeff# made by hand\n/a/b.mp4 3\n\n  /with some  spaces.mp4 0\r\n/x.mp4\t12\n/über.mp4 1"
    )
    read = read_list(write_list(tmp_path, text))
    assert read.paths() == ["/a/b.mp4", "/with some  spaces.mp4", "/x.mp4", "/über.mp4"]
    assert read.labels.tolist() == [3, 0, 12, 1]
    assert read.labels.dtype == np.int64
    assert len(read) == 4


@pytest.mark.parametrize("separator", [",", ";", "\t", "::"])
def test_the_last_separator_splits(tmp_path, separator):
    text = f"/a{separator}b c.mp4{separator} 7\n"
    read = read_list(write_list(tmp_path, text), separator)
    assert (read.path(0), read.labels[0]) == (f"/a{separator}b c.mp4", 7)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("only_a_path.mp4", "expected 'path label' (DATA.PATH_LABEL_SEPARATOR ' ')"),
        ("a.mp4 x", "must be an integer from 0, got 'x'"),
        ("a.mp4 -1", "must be an integer from 0, got '-1'"),
        ("a.mp4 1.0", "must be an integer from 0, got '1.0'"),
        ("a.mp4 5", "must be below MODEL.NUM_CLASSES, 5"),
    ],
)
def test_bad_line_is_named(tmp_path, line, problem):
    path = write_list(tmp_path, f"# first\ngood.mp4 4\n\n{line}\n")
    with pytest.raises(ValueError, match=r"train\.csv, line 4") as error:
        read_list(path, num_classes=5)
    assert problem in str(error.value)
    assert repr(line) in str(error.value)


def test_missing_path_is_named(tmp_path):
    with pytest.raises(ValueError, match="line 1: the path is missing"):
        read_list(write_list(tmp_path, ",3\n"), ",")


def test_list_without_videos_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="lists no videos"):
        read_list(write_list(tmp_path, "# nothing\n\n"))


def test_paths(tmp_path, monkeypatch):
    here, data = tmp_path / "here", tmp_path / "data"
    for path in (here, data):
        path.mkdir()
        (path / "both.mp4").touch()
    monkeypatch.chdir(here)
    csv = write_list(data, "both.mp4 0\nsub/other.mp4 0\n/abs.mp4 0\n")
    assert read_list(csv).paths() == ["both.mp4", str(data / "sub/other.mp4"), "/abs.mp4"]
    prefixed = read_list(csv, prefix="/p")
    assert prefixed.paths() == ["/p/both.mp4", "/p/sub/other.mp4", "/abs.mp4"]


def test_file_names_that_are_not_utf8(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"/caf\xe9.mp4 0\n/bad\xe9.mp4 x\n")
    with pytest.raises(ValueError, match="line 2") as error:
        read_list(tmp_path / "train.csv")
    str(error.value).encode()  # it can be printed
    (tmp_path / "train.csv").write_bytes(b"/caf\xe9.mp4 0\n")
    assert os.fsencode(read_list(tmp_path / "train.csv").path(0)) == b"/caf\xe9.mp4"


def test_list_is_a_few_arrays():
    paths = [f"/data/k700/train/some class/{n:011}.mp4" for n in range(20_000)]
    read = FileList.from_rows((path, n % 700) for n, path in enumerate(paths))
    assert read.paths() == paths
    # no objects: the characters, and two numbers a video
    assert len(pickle.dumps(read)) < sum(len(path) + 16 for path in paths) + 1000


# --------------------------------------------------------------------------------------- training


def test_training_clip_repeats_for_its_key_and_differs_for_others(folder):
    clips = random_clips(videos(folder, [0, 2, 4]), seed=1)
    item = clips[0, 2]
    [video] = item["views"]
    assert video.shape == (3, 4, 32, 32)
    assert video.dtype == torch.uint8
    assert 0 <= video.min() < 40 < 200 < video.max() <= 255
    assert (item["label"], item["index"], item["bad"]) == (4, 2, [])
    assert torch.equal(clips[0, 2]["views"][0], video)
    other_seed = random_clips(clips.videos, seed=2)
    for other in (clips[1, 2], clips[0, 1], other_seed[0, 2]):
        assert not torch.equal(other["views"][0], video)


def test_training_clip_shows_the_right_frames(folder):
    """No jitter, no room for the crop: the pixels tell the frames."""
    fixed = TrainTransform(jitter_scales=(32, 32), crop_size=32, flip=False)
    clips = random_clips(videos(folder, [4]), ClipTransform(fixed))
    frames = decode(folder / "4.mp4")
    starts = set()
    for epoch in range(20):
        [video] = clips[epoch, 0]["views"]  # 32x44 needs no resize: exact pixels
        places = [
            [
                t
                for t in range(len(frames))
                if any(
                    torch.equal(video[:, k], frames[t, :, :, x : x + 32]) for x in range(44 - 31)
                )
            ]
            for k in range(4)
        ]
        [start], *_, [end] = places
        starts.add(start)
        # 16 frames at 30 fps are 12.8 at 24: linspace(start, start + 11.8, 4), truncated
        assert end - start in (11, 12)
    assert len(starts) > 5
    assert max(starts) <= 70 - 12.8


def test_erasing_needs_exact_pixels():
    with pytest.raises(ValueError, match="float32"):
        ClipTransform(TRANSFORM.crop, Augmentation(erasing=RandomErasing(1.0)))


def test_short_video_repeats_its_last_frame(folder):
    fixed = TrainTransform(jitter_scales=(40, 40), crop_size=40, flip=False)
    protocol = Protocol(num_frames=4, sampling_rate=10)  # 20 frames at 15 fps; there are 9
    clips = random_clips(videos(folder, [2]), ClipTransform(fixed), protocol=protocol)
    [video] = clips[0, 0]["views"]
    assert torch.equal(video[:, 2], video[:, 3])
    assert not torch.equal(video[:, 0], video[:, 3])


def test_unreadable_training_videos_are_replaced_and_reported(folder):
    clips = random_clips(videos(folder, [0, 1, 3, 5]), max_tries=50)
    item = clips[0, 1]
    assert (item["label"], item["index"]) == (0, 0)
    assert item["bad"][0][0] == str(folder / "1.mp4")
    assert {Path(path).name for path, _ in item["bad"]} <= {"1.mp4", "3.mp4", "5.mp4"}
    assert all(reason and "mp4" not in reason for _, reason in item["bad"])
    again = clips[0, 1]
    assert torch.equal(again["views"][0], item["views"][0])
    assert again["bad"] == item["bad"]


def test_the_search_for_a_readable_video_has_an_end(folder):
    item = random_clips(videos(folder, [1, 3]))[0, 0]
    assert item["views"] == []
    assert len(item["bad"]) == 10
    assert {Path(path).name for path, _ in item["bad"]} == {"1.mp4", "3.mp4"}


def test_copies_of_a_clip_come_from_one_reading(folder, monkeypatch):
    opened = []

    class Counting(VideoReader):
        def __init__(self, path: str, **options: str) -> None:
            opened.append(path)
            super().__init__(path, **options)

    monkeypatch.setattr(video_source, "VideoReader", Counting)
    three = ClipTransform(TRANSFORM.crop, Augmentation(copies=3))
    clips = random_clips(videos(folder, [0, 2, 3]), three)
    items = [clips[0, index] for index in (0, 1)]
    assert len(opened) == 2
    batch = collate_clips([*items, {"views": [], "label": 3, "index": 2, "bad": [("x", "y")]}])
    assert batch["video"].shape == (6, 3, 4, 32, 32)
    assert batch["label"].tolist() == [0, 0, 0, 2, 2, 2]
    assert batch["index"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["bad"] == [("x", "y")]
    copies = [video for item in items for video in item["views"]]
    assert all(torch.equal(a, b) for a, b in zip(batch["video"], copies, strict=True))
    assert not torch.equal(copies[0], copies[1])
    # the first is the clip that there would be without copies
    [single] = random_clips(clips.videos)[0, 0]["views"]
    assert torch.equal(copies[0], single)


# ------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("number", [0, 2])
def test_centre_clip(folder, number):
    clips = middle_views(videos(folder, [number]))
    video = only_view(clips[0])
    frames = resized(decode(folder / f"{number}.mp4"), 32)
    span = {0: 16.0, 2: 8.0}[number]  # at 30 and at 15 fps
    start = (len(frames) - span) / 2
    wanted = [int(start + k * (span - 1) / 3) for k in range(4)]
    h, w = frames.shape[2:]
    [(top, left)] = crop_offsets(h, w, 32, 1)
    expected = frames[wanted, :, top : top + 32, left : left + 32].transpose(0, 1)
    torch.testing.assert_close(video, expected, rtol=0, atol=0.02)
    assert torch.equal(only_view(clips[0]), video)


def test_missing_validation_videos_are_left_out_of_the_batch(folder):
    clips = middle_views(videos(folder, [0, 1, 2, 3]))
    batch = collate_clips([clips[i] for i in range(4)])
    assert batch["video"].shape == (2, 3, 4, 32, 32)
    assert torch.equal(batch["video"][1], only_view(clips[2]))
    assert batch["label"].tolist() == batch["index"].tolist() == [0, 2]
    assert batch["label"].dtype == batch["index"].dtype == torch.int64
    assert [Path(path).name for path, _ in batch["bad"]] == ["1.mp4", "3.mp4"]


def test_batch_of_missing_videos_is_empty(folder):
    clips = middle_views(videos(folder, [1, 3]))
    batch = collate_clips([clips[0], clips[1]])
    assert len(batch["label"]) == len(batch["index"]) == len(batch["video"]) == 0
    assert len(batch["bad"]) == 2


# ------------------------------------------------------------------------------------------- test


@pytest.mark.parametrize("number", [0, 2, 4])
@pytest.mark.parametrize("num_crops", [1, 3])
def test_views_equal_those_computed_one_by_one(folder, number, num_crops):
    fps = {0: 30, 2: 15, 4: 24}[number]
    num_clips, size = 5, 32
    item = views_of(videos(folder, [number]), num_clips, num_crops)[0]
    assert item["frames"].dtype == (torch.uint8 if number == 4 else torch.float32)
    assert (item["label"], item["index"], item["bad"]) == (number, 0, [])
    assert item["clips"].shape == (num_clips, 4)
    assert item["crops"].shape == (num_crops, 2)

    frames = resized(decode(folder / f"{number}.mp4"), size)
    length, _, h, w = frames.shape
    span = 16 / 30 * fps
    for v in range(num_clips * num_crops):
        clip, crop = divmod(v, num_crops)
        start = view_start(length, span, clip, num_clips)
        wanted = torch.linspace(start, start + span - 1, 4).clamp(0, length - 1).long()
        top, left = crop_offsets(h, w, size, num_crops)[crop]
        expected = frames[wanted, :, top : top + size, left : left + size].transpose(0, 1)
        ours = view(item["frames"], item["clips"][clip], item["crops"][crop], size)
        torch.testing.assert_close(ours.float(), expected, rtol=0, atol=0.02)


def test_a_video_is_opened_once_and_its_frames_are_asked_for_once(folder, monkeypatch):
    calls = []

    class Counting(VideoReader):
        def __init__(self, path: str, **options: str) -> None:
            calls.append("open")
            super().__init__(path, **options)

        def clip(self, indices: np.ndarray) -> Callable[[Convert], torch.Tensor]:
            calls.append("read")
            assert len(set(indices.tolist())) == len(indices)
            return super().clip(indices)

        def close(self) -> None:
            calls.append("close")
            super().close()

    monkeypatch.setattr(video_source, "VideoReader", Counting)
    item = views_of(videos(folder, [0]))[0]
    assert len(item["clips"]) * len(item["crops"]) == 30
    assert calls == ["open", "read", "close"]


@pytest.mark.parametrize("frames_at_once", [1, 3])
def test_large_frames_are_converted_part_by_part(folder, monkeypatch, frames_at_once):
    """Both ways to read, with all that training draws, give what they give of whole clips."""
    listed = videos(folder, [0, 2, 4])
    extra = Augmentation(
        RandAugment(RandAugmentSpec(9, 2, 0.5, True)), RandomErasing(1.0, max_count=2), copies=2
    )
    crop = TrainTransform(jitter_scales=(36, 44), crop_size=32, pixels="float32")
    precise = ClipTransform(crop, extra)

    def items() -> list[torch.Tensor]:
        found = []
        for n in range(len(listed)):
            found += random_clips(listed, precise)[0, n]["views"]
            found += random_clips(listed)[0, n]["views"]
            found.append(middle_views(listed)[n]["frames"])
            found.append(views_of(listed)[n]["frames"])
        return found

    parts = []
    original = Frames._parts

    def counted(self: VideoReader, *args: object) -> Iterator[object]:
        for part in original(self, *args):
            parts.append(len(part[0]))
            yield part

    whole = items()
    monkeypatch.setattr(frames_module, "PART_BYTES", frames_at_once * 40 * 64 * 3)
    monkeypatch.setattr(Frames, "_parts", counted)
    for got, expected in zip(items(), whole, strict=True):
        assert torch.equal(got, expected)
    assert frames_at_once in parts
    assert max(parts) < 8


def test_missing_test_video(folder):
    item = views_of(videos(folder, [0, 3]))[1]
    assert item.keys() == {"label", "index", "bad"}
    assert (item["label"], item["index"]) == (3, 1)
    [(path, reason)] = item["bad"]
    assert path == str(folder / "3.mp4")
    assert reason
