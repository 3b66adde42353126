"""VideoReader against a full sequential decode, on clips made here and on real files."""

import logging
import pickle
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octvideo.data.read.packet_index import Index, plan_runs
from octvideo.data.read.pyav_backend import PyAVBackend
from octvideo.data.read.video import BACKENDS, VideoError, VideoReader
from support import SHARED

BIT = 16  # side of the squares that carry the frame number, in pixels
BITS = 7


def picture(number: int, height: int, width: int) -> np.ndarray:
    """A moving texture; the squares along the upper edge are the frame number in binary."""
    texture = np.random.default_rng(0).integers(60, 190, (height + 64, width + 64, 3), np.uint8)
    image = texture[number % 61 :, 2 * number % 61 :][:height, :width].copy()
    for bit in range(BITS):
        image[:BIT, bit * BIT : (bit + 1) * BIT] = 255 * (number >> bit & 1)
    return image


def number_of(frame: np.ndarray) -> int:
    squares = frame[2 : BIT - 2, : BITS * BIT].mean((0, 2)).reshape(BITS, BIT).mean(1)
    return sum(1 << bit for bit in range(BITS) if squares[bit] > 128)


@dataclass(frozen=True)
class Clip:
    """What to encode; `ticks` are the timestamps of the frames in milliseconds."""

    suffix: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    gop: int = 12
    frames: int = 60
    height: int = 96
    width: int = 128
    pix_fmt: str = "yuv420p"
    ticks: Callable[[int], int] | None = None
    rotation: int = 0
    seeks: bool = True

    def write(self, path: Path) -> Path:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(self.codec, rate=25, options=self.options)
            stream.width, stream.height = self.width, self.height
            stream.pix_fmt, stream.gop_size = self.pix_fmt, self.gop
            if self.ticks:
                stream.codec_context.time_base = Fraction(1, 1000)
            if self.rotation:
                stream.set_display_rotation(self.rotation)
            for number in range(self.frames):
                image = picture(number, self.height, self.width)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if self.ticks:
                    frame.pts, frame.time_base = self.ticks(number), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path


X264 = {
    "preset": "veryfast",
    "bf": "3",
    "x264-params": "b-pyramid=normal:scenecut=0:log-level=none",
}
OPEN = {"preset": "veryfast", "x264-params": "open-gop=1:bframes=3:log-level=none"}
X265 = "log-level=none:bframes=4:keyint=20:min-keyint=20"
CLIPS = {
    "h264_gop12": Clip("mp4", "libx264", X264),
    "h264_gop250": Clip("mp4", "libx264", X264, gop=250),
    "h264_no_b": Clip("mp4", "libx264", {"preset": "veryfast", "bf": "0"}),
    "h264_open_gop": Clip("mkv", "libx264", OPEN),
    "h264_interlaced": Clip("mp4", "libx264", {**X264, "flags": "+ildct+ilme"}),
    "h264_odd_size": Clip("mp4", "libx264", X264, height=75, width=141, pix_fmt="yuv444p"),
    "h264_ten_bit": Clip("mp4", "libx264", X264, pix_fmt="yuv420p10le"),
    "h264_vfr": Clip("mp4", "libx264", X264, ticks=lambda n: 17 * n + n * n + 500 * (n > 30)),
    "h264_upside_down": Clip("mp4", "libx264", X264, rotation=180),
    "h264_left": Clip("mp4", "libx264", X264, rotation=90),
    "h264_right": Clip("mp4", "libx264", X264, rotation=-90),
    "h264_avi": Clip("avi", "libx264", X264, seeks=False),
    "h264_ts": Clip("ts", "libx264", X264, seeks=False),
    "h264_raw": Clip("h264", "libx264", X264, seeks=False),
    "hevc": Clip("mp4", "libx265", {"preset": "ultrafast", "x265-params": X265}),
    "hevc_open_gop": Clip("mkv", "libx265", {"x265-params": X265 + ":open-gop=1"}, frames=40),
    "hevc_layers": Clip("mp4", "libx265", {"x265-params": X265 + ":temporal-layers=3"}, frames=40),
    "mpeg4_avi": Clip("avi", "mpeg4", {"bf": "2", "b": "2M"}, seeks=False),
    "mpeg4_mp4": Clip("mp4", "mpeg4", {"bf": "2", "b": "2M"}),
    "mjpeg_mov": Clip("mov", "mjpeg", pix_fmt="yuvj420p"),
    "vp8": Clip("webm", "libvpx", {"b": "1M", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9": Clip("webm", "libvpx-vp9", {"b": "1M", "deadline": "realtime", "cpu-used": "8"}),
}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def make(name: str) -> Path:
        if name not in made:
            spec = CLIPS[name]
            if spec.codec not in av.codecs_available:
                pytest.skip(f"this PyAV has no encoder {spec.codec}")
            if spec.rotation and not hasattr(av.VideoStream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a rotation")
            made[name] = spec.write(folder / f"{name}.{spec.suffix}")
        return made[name]

    return make


def upright(rgb: np.ndarray, rotation: int) -> np.ndarray:
    """`rotation` in degrees, counter-clockwise, by transposes and flips."""
    if rotation % 360 == 90:
        return rgb.transpose(1, 0, 2)[::-1]
    if rotation % 360 == 180:
        return rgb[::-1, ::-1]
    if rotation % 360 == 270:
        return rgb.transpose(1, 0, 2)[:, ::-1]
    return rgb


def sequential(path: Path, wanted: set[int] | None = None) -> tuple[list[np.ndarray], bool]:
    """All frames up to the end or the first error, and whether there was an error.

    Frames that are not in `wanted`, if given, are None.
    """
    frames, size = [], {}
    try:
        with av.open(str(path)) as container:
            cover = av.stream.Disposition.attached_pic
            stream = next(s for s in container.streams.video if not s.disposition & cover)
            for frame in container.decode(stream):
                size = size or {"width": frame.width, "height": frame.height}
                if wanted is not None and len(frames) not in wanted:
                    frames.append(None)
                    continue
                rgb = frame.reformat(format="rgb24", **size).to_ndarray()
                frames.append(upright(rgb, frame.rotation))
    except (av.FFmpegError, StopIteration):
        return frames, True
    return frames, False


def index_sets(count: int, sets: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(count)
    yield np.array([count - 1])
    yield np.linspace(0, count - 1, 8).astype(int)[::-1]
    for _ in range(sets):
        yield rng.integers(0, count, rng.integers(1, 12))


def assert_same(got: np.ndarray, reference: list[np.ndarray], indices: np.ndarray) -> None:
    assert got.dtype == np.uint8
    assert got.shape == (len(indices), *reference[0].shape)
    wrong = [i for i, frame in zip(indices, got, strict=True) if (frame != reference[i]).any()]
    assert not wrong, f"frames {wrong} of {indices} differ"


@pytest.mark.parametrize("name", CLIPS)
def test_own_clip_equals_sequential_decode(name: str, clip: Callable[[str], Path]) -> None:
    path, spec = clip(name), CLIPS[name]
    reference, _ = sequential(path)
    assert [number_of(upright(f, -spec.rotation)) for f in reference] == list(range(spec.frames))
    with VideoReader(path) as reader:
        assert reader.num_frames == spec.frames
        assert reader.size == reference[0].shape[:2]
        if not spec.ticks:
            assert reader.fps == pytest.approx(25, rel=0.01)
        everything = np.arange(spec.frames)
        assert_same(reader.get_frames(everything), reference, everything)
        for indices in index_sets(spec.frames, 12):
            assert_same(reader.get_frames(indices), reference, indices)
        assert reader._backend._seekable == spec.seeks  # the fast path did not give up


def test_average_rate_of_a_variable_one(clip: Callable[[str], Path]) -> None:
    ticks = CLIPS["h264_vfr"].ticks
    assert ticks is not None
    with VideoReader(clip("h264_vfr")) as reader:
        assert reader.fps == pytest.approx(59 / (ticks(59) - ticks(0)) * 1000, rel=0.1)


@pytest.mark.parametrize(("name", "turns"), [("h264_left", 1), ("h264_right", 3)])
def test_rotation_is_applied(name: str, turns: int, clip: Callable[[str], Path]) -> None:
    with VideoReader(clip(name)) as reader:
        assert reader.size == (128, 96)
        assert number_of(np.rot90(reader.get_frames([37])[0], -turns)) == 37


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(indices=st.lists(st.integers(0, 59), min_size=1, max_size=20))
@pytest.mark.parametrize("name", ["h264_gop12", "h264_gop250", "mpeg4_avi"])
def test_any_list_of_indices(name: str, indices: list[int], clip: Callable[[str], Path]) -> None:
    with VideoReader(clip(name)) as reader:
        frames = reader.get_frames(indices)
    assert [number_of(frame) for frame in frames] == indices


# --- what is decoded ---------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the timestamps of all frames that come out of the decoder by the fast path."""
    seen: list[int] = []
    original = PyAVBackend._decode_run

    def counting(self: PyAVBackend, run: object) -> Iterator[av.VideoFrame]:
        for frame in original(self, run):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(PyAVBackend, "_decode_run", counting)
    return seen


def test_short_gop_decodes_one_gop(clip: Callable[[str], Path], decoded: list[int]) -> None:
    with VideoReader(clip("h264_gop12")) as reader:
        reader.get_frames([5])
        assert len(decoded) <= 12
        decoded.clear()
        reader.get_frames([2, 50])  # two GOPs of five
        assert len(decoded) <= 24


def test_long_gop_skips_frames_nobody_needs(
    clip: Callable[[str], Path], decoded: list[int]
) -> None:
    with VideoReader(clip("h264_gop250")) as reader:
        reader.get_frames([59])
        with_skipping = len(decoded)
        decoded.clear()
        reader._backend._skips = False
        reader.get_frames([59])
    assert len(decoded) >= 59
    assert with_skipping <= 45


def test_all_views_are_one_pass(
    clip: Callable[[str], Path], decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a[0]) or original(*a, **k))
    views = [np.linspace(5 * i, 5 * i + 14, 8).astype(int) for i in range(10)]
    with VideoReader(clip("h264_gop12")) as reader:
        reader.get_frames(np.concatenate(views))
    assert len(opened) == 1
    assert len(decoded) == len(set(decoded)) <= 60


@pytest.mark.parametrize("name", ["h264_gop12", "mpeg4_avi"])
def test_opening_decodes_nothing(
    name: str, clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(name)

    def never(*args: object) -> None:
        raise AssertionError("decodes at opening")

    monkeypatch.setattr("octvideo.data.read.pyav_backend.decode_all", never)
    monkeypatch.setattr(PyAVBackend, "_decode_run", never)
    with VideoReader(path) as reader:
        assert reader.num_frames == 60


def test_reading_on_without_seeks_does_not_start_again(
    clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with VideoReader(clip("mpeg4_avi")) as reader:
        starts: list[int] = []
        original = reader._backend._restart
        monkeypatch.setattr(reader._backend, "_restart", lambda: starts.append(1) or original())
        for first in range(0, 60, 10):
            frames = reader.get_frames(range(first, first + 10))
            assert number_of(frames[0]) == first
        assert len(starts) == 1


def test_plan() -> None:
    # Decoding order I0 P3 B1 B2 | I4 P7 B5 B6 | I8: timestamps are the numbers.
    order = [0, 3, 1, 2, 4, 7, 5, 6, 8]
    place = {pts: n for n, pts in enumerate(order)}
    keys = [(0, 0), (4, 4), (8, 8)]
    index = Index(9, sorted(order), place, keys, announced=9, exact=True, seekable=True)

    def plan(*wanted: int) -> list[tuple[int, int, list[int]]]:
        return [(run.start, run.stop, run.wanted) for run in plan_runs(index, wanted)]

    assert plan(1, 2, 3) == [(0, 2, [1, 2, 3])]
    assert plan(3, 5) == [(0, 3, [3]), (4, 5, [5])]  # two B-frames are jumped over
    assert plan(2, 5) == [(0, 5, [2, 5])]  # nothing lies between
    assert plan(0, 8) == [(0, 0, [0]), (8, 8, [8])]
    # Open GOP: frame 3 is shown before keyframe 4 and decoded after it.
    place = {pts: n for n, pts in enumerate([0, 2, 1, 4, 3])}
    index = Index(5, [0, 1, 2, 3, 4], place, [(0, 0), (4, 3)], 5, exact=True, seekable=True)
    assert plan(3) == [(0, 3, [3])]
    assert plan(4) == [(4, 4, [4])]


# --- files that announce more than they hold ----------------------------------------------------


def without_first_keyframe(source: Path, path: Path) -> Path:
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for n, packet in enumerate(old.demux(video=0)):
            if n and packet.size:
                packet.stream = stream
                new.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_cut_first_keyframe(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Clip("mp4", "libx264", {"preset": "veryfast", "bf": "0"}, gop=6, frames=90)
    whole = source.write(tmp_path / "whole.mp4")
    path = without_first_keyframe(whole, tmp_path / f"cut.{suffix}")
    with caplog.at_level(logging.WARNING), VideoReader(path) as reader:
        assert reader.num_frames == 84
        assert [number_of(f) for f in reader.get_frames([0, 83, 40])] == [6, 89, 46]
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    with pytest.raises(VideoError, match=r"only 84 of 89 .*max_missing=0.01"):
        VideoReader(path, max_missing=0.01)


class TestEarlyEnd:
    """A stream that ends cleanly before the frames that its packets announce."""

    @pytest.fixture
    def reader(self, clip: Callable[[str], Path]) -> Iterator[VideoReader]:
        with VideoReader(clip("mpeg4_avi")) as reader:
            yield reader

    def announce(self, reader: VideoReader, frames: int) -> None:
        reader.num_frames = reader._backend.num_frames = frames

    def test_last_frame_repeats_and_is_reported_once(
        self, reader: VideoReader, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.announce(reader, 63)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                frames = reader.get_frames([62, 0, 59, 60])
                assert [number_of(frame) for frame in frames] == [59, 0, 59, 59]
        assert len(caplog.records) == 1
        assert "only 60 of 63" in caplog.text

    def test_too_many_missing(self, reader: VideoReader) -> None:
        self.announce(reader, 80)
        assert number_of(reader.get_frames([59])[0]) == 59
        for _ in range(2):
            with pytest.raises(VideoError, match=r"mpeg4_avi\.avi: only 60 of 80"):
                reader.get_frames([3, 79])


def test_seeks_that_lie_fall_back_to_order(
    clip: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with VideoReader(clip("h264_gop12")) as reader, caplog.at_level(logging.INFO):
        backend = reader._backend
        shown = backend.index.shown
        backend.index.place.update({shown[30] + 1: backend.index.place[shown[30]]})
        shown[30] += 1  # a timestamp that no frame has
        assert [number_of(f) for f in reader.get_frames([29, 30, 31])] == [29, 30, 31]
        assert not backend._seekable
        assert "read in order" in caplog.text
        assert [number_of(f) for f in reader.get_frames([50, 4])] == [50, 4]


# --- errors -------------------------------------------------------------------------------------


def test_wrong_indices(clip: Callable[[str], Path]) -> None:
    path = clip("h264_gop12")
    with VideoReader(path) as reader:
        for bad in ([60], [-1], [3, 1000]):
            with pytest.raises(IndexError, match=r"h264_gop12\.mp4: .* 0 to 59"):
                reader.get_frames(bad)
        for bad in ([1.0], [[1, 2]], ["1"]):
            with pytest.raises(TypeError, match="integers"):
                reader.get_frames(bad)
        assert reader.get_frames([]).shape == (0, 96, 128, 3)
    with pytest.raises(ValueError, match="closed"):
        reader.get_frames([0])
    reader.close()


def test_limits(clip: Callable[[str], Path]) -> None:
    path = clip("h264_gop12")
    with pytest.raises(VideoError, match="128x96 pixels, more than max_pixels=12000"):
        VideoReader(path, max_pixels=12000)
    with pytest.raises(VideoError, match="60 frames, at least 61"):
        VideoReader(path, min_frames=61)


def test_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 1000)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    for name in ("missing.mp4", ".", "empty.mp4", "text.mp4", "sound.wav"):
        path = tmp_path / name
        with pytest.raises(VideoError) as caught:
            VideoReader(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert caught.value.path == str(path)


def test_name_that_looks_like_an_address(
    clip: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "http:a b.mp4").write_bytes(clip("h264_gop12").read_bytes())
    monkeypatch.chdir(tmp_path)
    with VideoReader("http:a b.mp4") as reader:
        assert reader.num_frames == 60


def test_error_survives_a_worker() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "broken")))
    assert (error.path, str(error)) == ("a.mp4", "a.mp4: broken")


def test_damage_in_the_middle(clip: Callable[[str], Path], tmp_path: Path) -> None:
    """Every single frame is either right or a VideoError that names the file."""
    whole = clip("h264_gop12")
    reference, _ = sequential(whole)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    right = 0
    with VideoReader(path) as reader:
        for i in range(reader.num_frames):
            try:
                frame = reader.get_frames([i])[0]
            except VideoError as error:
                assert str(path) in str(error)  # noqa: PT017
            else:
                assert (frame == reference[i]).all()
                right += 1
    assert 48 <= right < 60  # one GOP is lost, at most


@pytest.mark.parametrize("name", ["h264_gop12", "h264_open_gop", "h264_ts", "mpeg4_avi", "vp9"])
def test_random_damage_is_never_another_error(
    name: str, clip: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / clip(name).name
    for seed in range(10):
        rng = np.random.default_rng(seed)
        data = bytearray(clip(name).read_bytes())
        start, length = rng.integers(0, len(data)), rng.integers(1, 400)
        data[start : start + length] = rng.bytes(length) if seed % 2 else b""
        path.write_bytes(data)
        begin = time.perf_counter()
        try:
            with VideoReader(path, max_missing=seed % 3 / 2) as reader:
                for indices in index_sets(reader.num_frames, 2):
                    assert len(reader.get_frames(indices)) == len(indices)
        except VideoError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
        assert time.perf_counter() - begin < 10


# --- backends -----------------------------------------------------------------------------------


def test_unknown_backend(clip: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"'torchvision'.*pyav, decord, torchcodec"):
        VideoReader(clip("h264_gop12"), "torchvision")


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_backend_not_installed(
    backend: str, clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [backend, *(m for m in sys.modules if m.startswith(backend + "."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install .*{backend}"):
        VideoReader(clip("h264_gop12"), backend)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("name", ["h264_gop12", "h264_gop250", "h264_left", "h264_vfr"])
def test_backend_gives_the_same(backend: str, name: str, clip: Callable[[str], Path]) -> None:
    try:
        other = VideoReader(clip(name), backend)
    except ImportError as error:
        pytest.skip(str(error))
    with other, VideoReader(clip(name)) as reader:
        assert (other.num_frames, other.fps) == (reader.num_frames, reader.fps)
        assert other.size == reader.size
        for indices in index_sets(60, 4):
            got = other.get_frames(indices).astype(int)
            assert abs(got - reader.get_frames(indices)).max() <= 1
    for bad in ("missing.mp4", __file__):
        with pytest.raises(VideoError, match=bad):
            VideoReader(bad, backend)


# --- real files ---------------------------------------------------------------------------------


def listed(*folders: str) -> list[tuple[str, int]]:
    """(file, frames) of the table in the README beside the real files."""
    if not (SHARED / "videos").is_dir():
        return []
    rows = [
        line.split("|")[1:-1] for line in (SHARED / "videos/README.md").read_text().splitlines()
    ]
    table = [(row[0].strip(), int(row[4])) for row in rows if row and row[0].strip()[-4:-3] == "."]
    assert table
    return [row for row in table if row[0].split("/")[0] in folders]


def real(*folders: str) -> pytest.MarkDecorator:
    large = ("good/imageio_cockatoo.mp4", "good/sam2_05_default_juggle.mp4")
    rows = [
        pytest.param(*row, id=row[0], marks=[pytest.mark.slow] * (row[0] in large))
        for row in listed(*folders)
    ]
    if not rows:
        skip = pytest.mark.skip("needs the reference clips beside the checkout")
        rows = [pytest.param("", 0, marks=skip)]
    return pytest.mark.parametrize(("name", "count"), rows)


@real("good", "odd")
def test_real_file(name: str, count: int) -> None:
    path = SHARED / "videos" / name
    if name == "odd/huge_real.mp4":
        with pytest.raises(VideoError, match=r"huge_real\.mp4: .*15360x8640"):
            VideoReader(path)
        with VideoReader(path, max_pixels=2**28) as reader:
            assert reader.get_frames([0]).shape == (1, 8640, 15360, 3)
        return
    sets = list(index_sets(count, 4))
    reference, _ = sequential(path, wanted={0, *np.concatenate(sets).tolist()})
    assert len(reference) == count
    with VideoReader(path) as reader:
        assert reader.num_frames == count
        assert reader.size == reference[0].shape[:2]
        for indices in sets:
            assert_same(reader.get_frames(indices), reference, indices)
    for indices in sets[1:]:  # nothing read before: the first packet may bring what others need
        with VideoReader(path) as reader:
            assert_same(reader.get_frames(indices), reference, indices)


@real("bad")
def test_bad_file(name: str, count: int) -> None:
    path = SHARED / "videos" / name
    reference, failed = sequential(path)
    assert len(reference) == count
    start = time.perf_counter()
    try:
        reader = VideoReader(path)
    except VideoError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        return
    assert failed
    with reader:
        if count:
            before = np.arange(count)[::-5]
            assert_same(reader.get_frames(before), reference, before)
        with pytest.raises(VideoError, match=name):
            reader.get_frames(np.arange(reader.num_frames))
    assert time.perf_counter() - start < 30


def test_larger_frames_than_declared(shared: Path) -> None:
    with pytest.raises(VideoError, match=r"reschange\.ts"):
        VideoReader(shared / "videos/odd/reschange.ts", max_pixels=100_000)


def test_frames_after_damage(shared: Path) -> None:
    """Beyond the damage, from the next keyframe on, frames are right: those of a lenient decode."""
    path = shared / "videos/bad/midcorrupt.mp4"
    lenient = {}
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                for frame in packet.decode():
                    lenient[frame.pts] = frame.to_ndarray(format="rgb24")
            except av.InvalidDataError:
                continue
    with VideoReader(path) as reader:
        for indices in ([299], [250, 270, 290], [82]):
            got = reader.get_frames(indices)
            reference = [lenient[reader._backend.index.shown[i]] for i in indices]
            np.testing.assert_array_equal(got, reference)
            with pytest.raises(VideoError, match="frame 84 of 300 is damaged"):
                reader.get_frames([84, 299])
            with pytest.raises(VideoError, match="stops at frame 83 of 300"):
                reader.get_frames([95])
