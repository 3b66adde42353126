"""Damaged files: what FFmpeg notices is an error, in whatever way frames are read, or left out."""

import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from octvideo.data.augment import ClipTransform
from octvideo.data.clips import AllViews, RandomClips
from octvideo.data.protocol import Protocol
from octvideo.data.read.decoding import filled
from octvideo.data.read.ffmpeg_errors import ffmpeg_errors
from octvideo.data.read.video import BACKENDS, VideoError, VideoReader, check_backend
from octvideo.data.sources import FileList, source_of
from octvideo.data.transforms import TrainTransform

FRAMES, BIT = 48, 16
KINDS = {
    "h264": ("mp4", "libx264", {"preset": "veryfast", "bf": "2"}),
    "hevc": ("mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "1M"}),
    "mpeg4": ("avi", "mpeg4", {"b": "1M"}),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Clips of a moving texture; six squares in the first rows are the frame number in binary."""
    folder = tmp_path_factory.mktemp("sound")
    texture = np.random.default_rng(0).integers(60, 190, (200, 300, 3), np.uint8)

    def make(kind: str) -> Path:
        suffix, codec, options = KINDS[kind]
        path = folder / f"{kind}.{suffix}"
        if path.exists():
            return path
        if codec not in av.codecs_available:
            pytest.skip(f"this PyAV has no encoder {codec}")
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 128, 96, "yuv420p", 12
            for number in range(FRAMES):
                image = texture[number : number + 96, 2 * number : 2 * number + 128].copy()
                for bit in range(6):
                    image[:BIT, bit * BIT : (bit + 1) * BIT] = 255 * (number >> bit & 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        return path

    return make


def numbers(frames: np.ndarray) -> list[int]:
    squares = frames[:, 2 : BIT - 2, : 6 * BIT].mean((1, 3)).reshape(-1, 6, BIT).mean(2) > 128
    return [int((row << np.arange(6)).sum()) for row in squares]


def damaged(source: Path, target: Path, seed: int) -> Path:
    """Some bytes overwritten, cut out, doubled, or one bit of them turned."""
    rng, data = np.random.default_rng(seed), bytearray(source.read_bytes())
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 200))
    match seed % 4:
        case 0:
            data[at : at + length] = rng.bytes(len(data[at : at + length]))
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = data[at : at + length]
        case 3:
            data[at] ^= 1 << int(rng.integers(8))
    target.write_bytes(data)
    return target


def with_holes(source: Path, target: Path) -> Path:
    """Most of the thirteenth packet is zeros, in H.264 a keyframe."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packet = [p for p in container.demux(video=0) if p.size][12]
        at, size = packet.pos, packet.size
    data[at + size // 4 : at + size] = bytes(size - size // 4)
    target.write_bytes(data)
    return target


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
@pytest.mark.parametrize("kind", ["hevc", "vp9"])
def test_what_ffmpeg_reports_is_an_error(
    kind: str, sound: Callable[[str], Path], tmp_path: Path
) -> None:
    """HEVC frames that were lost, Matroska blocks that were jumped over: they were no error."""
    source, reported = sound(kind), 0
    for seed in range(8):
        path = damaged(source, tmp_path / source.name, seed)
        command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-f", "null", "-"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        try:
            with VideoReader(path) as reader:
                reader.get_frames(range(reader.num_frames))
        except VideoError as error:
            assert error.path == str(path)  # noqa: PT017
        else:
            assert not said, f"seed {seed}: {said}"
        reported += bool(said)
    assert reported >= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_matroska_that_loses_frames(
    backend: str, sound: Callable[[str], Path], tmp_path: Path
) -> None:
    """FFmpeg finds a way on, behind the frames of a cluster or two, and calls it no failure."""
    try:
        check_backend(backend)
    except ImportError as error:
        pytest.skip(str(error))
    data = bytearray(sound("vp9").read_bytes())
    with av.open(str(sound("vp9"))) as container:
        at = [p.pos for p in container.demux(video=0) if p.size][20]
    data[at - 8 : at + 8] = bytes(16)  # the header of a block
    path = tmp_path / "lost.webm"
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert sum(1 for p in container.demux(video=0) if p.size) < FRAMES
    with pytest.raises(VideoError, match=r"lost\.webm: the container is damaged"):
        VideoReader(path, backend)
    with VideoReader(path, allow_partial=True) as reader:
        assert 0 < reader.num_frames < FRAMES


@pytest.mark.parametrize("kind", KINDS)
def test_seeks_and_order_agree(kind: str, sound: Callable[[str], Path], tmp_path: Path) -> None:
    """On whether a file is good, and on its frames. Of HEVC the decoder may leave a part of a frame
    as the memory was, without a word: of such frames no two readings agree."""
    source = sound(kind)

    def verdict(path: Path, in_order: bool, step: int) -> list[np.ndarray] | None:
        try:
            with VideoReader(path, in_order=in_order) as reader:
                count = reader.num_frames
                parts = [range(n, min(n + step, count)) for n in range(0, count, step)]
                return list(np.concatenate([reader.get_frames(part) for part in parts]))
        except VideoError:
            return None

    bad = 0
    for seed in range(8):
        path = damaged(source, tmp_path / source.name, seed)
        first, *others = (verdict(path, *how) for how in ((False, 99), (True, 7), (False, 1)))
        bad += first is None
        for other in others:
            assert (other is None) == (first is None), f"seed {seed}"
            if kind != "hevc":
                np.testing.assert_array_equal(other, first, err_msg=f"seed {seed}")
    assert bad


@pytest.mark.parametrize("kind", ["h264", "hevc"])
def test_allow_partial_leaves_out_what_is_damaged(
    kind: str, sound: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_holes(sound(kind), tmp_path / sound(kind).name)
    with VideoReader(sound(kind)) as reader:
        whole = reader.get_frames(range(FRAMES))
    with VideoReader(path) as reader, pytest.raises(VideoError):
        reader.get_frames(range(FRAMES))
    with VideoReader(path, allow_partial=True) as reader:
        assert 24 <= reader.num_frames < FRAMES
        frames = reader.get_frames(range(reader.num_frames))
        there = numbers(frames)
        np.testing.assert_array_equal(frames, whole[there])
        assert sorted({*there, *reader.left_out}) == list(range(FRAMES))
        assert len(there) + len(reader.left_out) == FRAMES
        assert reader.left_out
        assert numbers(reader.get_frames([len(there) - 1, 0])) == [there[-1], 0]

    files = FileList.from_rows([(str(path), 0)]), source_of("kinetics")
    for allow in (False, True):
        how = Protocol(64, 1, 64, 1, 1, allow_partial=allow)
        train = RandomClips(*files, how, ClipTransform(TrainTransform((64, 64), 64)))
        centre, views = AllViews(*files, how.one_view()), AllViews(*files, how)
        with caplog.at_level(logging.WARNING):
            items = [train[0, 0], centre[0], views[0]]
        assert [bool(item["bad"]) for item in items] == [not allow] * 3
        assert bool(caplog.records) == allow
    assert str(path) in caplog.text
    assert f"without {reader.left_out[0]}" in caplog.text


def test_truncated_avi(sound: Callable[[str], Path], tmp_path: Path) -> None:
    """Cut between two frames, it is sound but for its header, which counts all of them."""
    with av.open(str(sound("mpeg4"))) as container:
        positions = [p.pos for p in container.demux(video=0) if p.size]
    path = tmp_path / "cut.avi"
    path.write_bytes(sound("mpeg4").read_bytes()[: positions[30]])
    with pytest.raises(VideoError, match=f"only 30 of {FRAMES} announced"):
        VideoReader(path)
    with VideoReader(path, allow_partial=True) as reader:
        assert numbers(reader.get_frames(range(reader.num_frames))) == list(range(30))


def test_nothing_to_take(tmp_path: Path) -> None:
    for name in ("missing.mp4", "empty.mp4"):
        path = tmp_path / name
        if name == "empty.mp4":
            path.touch()
        with pytest.raises(VideoError, match=name):
            VideoReader(path, allow_partial=True)


def test_a_missing_frame_moves_no_other() -> None:
    """The one before it is shown for longer, as by a player; by number, all later ones would
    come too early."""
    calls: list[tuple[int, int]] = []

    def stamps(there: list[int | None], shown: list[int]) -> list[int | None]:
        frames: Iterator[SimpleNamespace] = (SimpleNamespace(pts=pts) for pts in there)
        return [frame.pts for frame in filled(frames, shown, lambda *a: calls.append(a))]

    assert stamps([0, 10, 40, 50], [0, 10, 20, 30, 40, 50]) == [0, 10, 10, 10, 40, 50]
    assert stamps([10, 20], [0, 10, 20]) == [10, 10, 20]
    assert calls == [(4, 6), (2, 3)]
    assert stamps([0, 20, 30], [0, 10, 20, 30, 40]) == [0, 0, 20, 30]
    assert calls[2:] == [(4, 5), (3, 5)]  # those at the end are counted with those before
    assert stamps([0, 11, 20], [0, 10, 20]) == [0, 11, 20]  # of a decoder with its own clock
    assert stamps([None, 5, 5], []) == [None, 5, 5]


def test_the_log_of_ffmpeg_is_left_as_it_was(sound: Callable[[str], Path]) -> None:
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    with ffmpeg_errors() as outer, ffmpeg_errors() as inner:
        for _ in range(2):
            av.logging.log(av.logging.ERROR, "matroska,webm", "lost")
        av.logging.log(av.logging.WARNING, "matroska,webm", "odd")
    assert (len(outer), len(inner)) == (0, 2)
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before
