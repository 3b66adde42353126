"""Frame rates and times of frames, on files whose time stamps are chosen here."""

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from octvideo.data.prepare.reencode import Encoding, reencode
from octvideo.data.protocol import Protocol
from octvideo.data.read.video import BACKENDS, VideoError, VideoReader

MS = Fraction(1, 1000)
X264 = {"preset": "veryfast", "bf": "2", "x264-params": "log-level=none"}
FRAMES = 48

Times = Callable[[int], Fraction]


def film(
    path: Path,
    codec: str,
    times: Times,
    rate: int,
    base: Fraction = MS,
    frames: int = FRAMES,
) -> Path:
    """Frame i is shown at times(i) seconds, and grey of 5 i; `rate` is what the file declares."""
    options = X264 if codec == "libx264" else {"deadline": "realtime", "cpu-used": "8"}
    if path.suffix == ".avi":  # stores the order of decoding alone
        options = {**options, "bf": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=rate, options=options if codec.startswith("lib") else {}
        )
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = base
        for number in range(frames):
            image = np.full((64, 64, 3), 5 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(times(number) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def even(fps: int) -> Times:
    return lambda number: Fraction(number, fps)


def without_default_duration(path: Path) -> Path:
    """Matroska's declared rate (element 23 E3 83) becomes a void element (EC)."""
    data = path.read_bytes()
    start = data.index(b"\x23\xe3\x83")
    size = data[start + 3] & 0x7F
    void = bytes([0xEC, 0x80 | size + 2]) + bytes(size + 2)
    path.write_bytes(data[:start] + void + data[start + 4 + size :])
    return path


# File, codec, and the rate that it declares or makes FFmpeg guess; all frames come 24 a second.
DECLARED = [
    ("a.webm", "libvpx", 1000),
    ("a.mkv", "libx264", 60),
    ("a.mp4", "libx264", 1000),  # the last frame lasts 1 ms: 24.5 on average
    ("a.mov", "mjpeg", 1000),
    ("a.flv", "libx264", 1000),
    ("a.flv", "flv", 60),
    ("a.avi", "mpeg4", 1000),  # empty packets between the frames
    ("a.wmv", "wmv2", 1000),
    ("a.ts", "libx264", 240),
    ("a.ts", "mpeg2video", 60),
]


@pytest.mark.parametrize(("name", "codec", "rate"), DECLARED)
def test_rate_comes_from_the_time_stamps(
    name: str, codec: str, rate: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = Fraction(1, 60) if codec == "mpeg2video" else MS
    fps = 20 if codec == "mpeg2video" else 24
    path = film(tmp_path / name, codec, even(fps), rate, base)
    with VideoReader(path) as reader:
        assert reader.num_frames == FRAMES
        assert reader.fps == pytest.approx(fps, rel=5e-4)  # time stamps are whole milliseconds
        assert reader.timing.seconds is None
        # Two seconds and a third of a video are sampled two seconds apart, not as frame 0 and the
        # last one over again.
        [clip] = Protocol(4, 15).one_view().view_indices(reader.num_frames, reader.fps)
        assert np.diff(clip).min() > 10
    assert not caplog.records


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_backends_agree_on_times(name: str, backend: str, tmp_path: Path) -> None:
    """In WebM as browsers write it: without a declared rate."""
    codec = "libvpx" if name == "a.webm" else "libx264"
    path = film(tmp_path / name, codec, lambda n: Fraction(n * n + 30 * n, 1000), 1000)
    if name == "a.webm":
        without_default_duration(path)
    try:
        reader = VideoReader(path, backend)
    except ImportError as error:
        pytest.skip(str(error))
    except VideoError as error:
        assert (name, backend) == ("a.webm", "decord")  # it cannot open such a file at all
        assert 'use backend "pyav"' in error.reason  # noqa: PT017
        return
    with reader:
        assert reader.fps == pytest.approx(47 / (47 * 47 + 30 * 47) * 1000)
        wanted = [(n * n + 30 * n) / 1000 for n in range(FRAMES)]
        np.testing.assert_allclose(reader.timing.seconds, wanted, atol=1e-6)


RATES = [("mp4", "libx264", Fraction(30000, 1001)), ("mkv", "libx264", Fraction(24000, 1001)),
         ("webm", "libvpx", Fraction(30)), ("flv", "flv", Fraction(30)),
         ("avi", "mpeg4", Fraction(25)), ("ts", "libx264", Fraction(50)),
         ("wmv", "wmv2", Fraction(25))]  # fmt: skip


@pytest.mark.parametrize(("suffix", "codec", "rate"), RATES)
@pytest.mark.parametrize("frames", [5, FRAMES])
def test_a_constant_rate_is_the_declared_one(
    suffix: str, codec: str, rate: Fraction, frames: int, tmp_path: Path
) -> None:
    path = film(tmp_path / f"a.{suffix}", codec, lambda n: n / rate, rate, 1 / rate, frames)
    with VideoReader(path) as reader:
        assert reader.num_frames == frames
        assert reader.fps == float(rate)
        assert reader.timing.seconds is None


def pause(number: int) -> Fraction:
    """30 frames a second, with a pause of two seconds before frame 20."""
    return Fraction(number, 30) + (2 if number >= 20 else 0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv", "ts"])
def test_variable_rates_are_sampled_by_time(suffix: str, tmp_path: Path) -> None:
    base = Fraction(1, 30) if suffix == "ts" else MS
    path = film(tmp_path / f"a.{suffix}", "libx264", pause, 30, base)
    at = np.array([float(pause(n)) for n in range(FRAMES)])
    with VideoReader(path) as reader:
        assert reader.fps == pytest.approx(47 / at[-1], rel=1e-3)
        np.testing.assert_allclose(reader.timing.seconds, at, atol=2e-3)
        protocol = Protocol(num_frames=12, sampling_rate=8, num_clips=4)
        video = (FRAMES, reader.fps)
        clips = protocol.view_indices(*video, reader.timing.seconds)
        grey = reader.get_frames(clips[1])[:, 32, 32, 0]
    assert abs(grey.astype(int) - 5 * clips[1]).max() <= 3
    # As PySlowFast samples this video once it has a constant rate: 60 frames more, which repeat
    # frame 19.
    constant = np.array([*range(20), *[19] * 60, *range(20, FRAMES)])
    start = (len(constant) - 8 * 12) / 4
    wanted = constant[torch.linspace(start, start + 8 * 12 - 1, 12).long().numpy()]
    off = abs(at[clips[1]] - at[wanted])
    assert off.max() <= (0 if suffix == "ts" else 0.05)  # milliseconds may tip a frame over
    by_number = Protocol(12, 8, num_clips=4, by_time=False).view_indices(
        *video, reader.timing.seconds
    )
    assert by_number.tolist() == protocol.view_indices(*video).tolist()
    assert by_number.tolist() != clips.tolist()


def test_jitter_is_no_variable_rate(tmp_path: Path) -> None:
    jitter = np.random.default_rng(0).integers(-12, 13, FRAMES)
    times = lambda n: Fraction(33 * n + 20 + int(jitter[n]), 1000)  # noqa: E731
    with VideoReader(film(tmp_path / "a.mp4", "libx264", times, 30)) as reader:
        assert reader.timing.seconds is None
        assert reader.fps == pytest.approx(30, rel=0.03)


def test_a_broadcast_with_two_clocks(tmp_path: Path) -> None:
    """Parts of MPEG-TS put behind one another, each with its own time, forwards and backwards."""

    def part(first: int) -> bytes:
        path = tmp_path / f"{first}.ts"
        return film(path, "libx264", lambda n: first + Fraction(n, 24), 24).read_bytes()

    path = tmp_path / "a.ts"
    path.write_bytes(part(900) + part(3) + part(5000))
    with VideoReader(path) as reader:
        assert reader.num_frames == 3 * FRAMES
        assert reader.fps == pytest.approx(24, rel=1e-3)
        assert reader.timing.seconds is None


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("name", ["a.flv", "a.mkv", "a.wmv"])
def test_short_files_that_start_late(name: str, frames: int, tmp_path: Path) -> None:
    codec = "wmv2" if name == "a.wmv" else "libx264"
    late = lambda n: 5 + Fraction(n, 25)  # noqa: E731
    path = film(tmp_path / name, codec, late, 25, MS, frames)
    with VideoReader(path) as reader:
        assert reader.num_frames == frames
        assert len(reader.get_frames(range(frames))) == frames
        if frames > 1:
            assert reader.fps == pytest.approx(25)


@pytest.mark.parametrize(("codec", "frames"), [("mjpeg", 6), ("libx264", FRAMES)])
def test_gaps_in_avi(codec: str, frames: int, tmp_path: Path) -> None:
    """AVI marks a gap by empty frames at the declared rate."""
    times = lambda n: Fraction(n + 40 * (n >= 4), 25)  # noqa: E731
    with VideoReader(film(tmp_path / "a.avi", codec, times, 25, Fraction(1, 25), frames)) as reader:
        wanted = [float(times(n)) for n in range(frames)]
        np.testing.assert_allclose(reader.timing.seconds, wanted)
        assert reader.fps == pytest.approx((frames - 1) / wanted[-1])


def test_an_unlikely_rate_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.mp4", "libx264", even(500), 500)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            VideoReader(path).close()
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    assert "500 frames per second" in caplog.text


@pytest.mark.parametrize(
    ("name", "codec", "times"),
    [
        ("a.webm", "libvpx", even(24)),
        ("a.flv", "libx264", even(24)),
        ("a.mkv", "libx264", pause),
        ("a.mp4", "libx264", pause),
    ],
)
def test_reencoding_keeps_times_and_duration(
    name: str, codec: str, times: Times, tmp_path: Path
) -> None:
    target = tmp_path / "small.mp4"
    reencode(film(tmp_path / name, codec, times, 1000), target, Encoding(64))
    with av.open(str(target)) as container:  # not by our own reader
        shown = [float(frame.time) for frame in container.decode(video=0)]
        seconds = float(container.duration / av.time_base)
    wanted = np.array([float(times(n)) for n in range(FRAMES)])
    np.testing.assert_allclose(np.array(shown) - shown[0], wanted, atol=2e-3)
    assert seconds == pytest.approx(wanted[-1], abs=0.1)
