"""Frames as they are meant to be shown: display matrices, pixels that are not square."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from octvideo.data.clips import AllViews
from octvideo.data.prepare.reencode import Encoding, reencode
from octvideo.data.protocol import Protocol
from octvideo.data.read.video import BACKENDS, VideoError, VideoReader
from octvideo.data.sources import FileList, source_of

COLOURS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "Y": (200, 200, 0)}
# a, b, c, d of the matrix, and the corners (from left to right, from the top down) of a frame with
# RG above BY as `ffmpeg -i FILE` shows it, which applies the matrix.
MATRICES = {
    (1, 0, 0, 1): "RGBY",
    (0, 1, -1, 0): "BRYG",
    (-1, 0, 0, -1): "YBGR",
    (0, -1, 1, 0): "GYRB",
    (-1, 0, 0, 1): "GRYB",
    (1, 0, 0, -1): "BYRG",
    (0, 1, 1, 0): "RBGY",
    (0, -1, -1, 0): "YGBR",
}


def four_colours(path: Path, ratio: str = "1/1", rotation: int = 0) -> Path:
    """Five frames of 96x64 pixels, whose width by height is `ratio`."""
    height, width = 64, 96
    image = np.empty((2, 2, 3), np.uint8)
    image[0], image[1] = [COLOURS["R"], COLOURS["G"]], [COLOURS["B"], COLOURS["Y"]]
    image = image.repeat(height // 2, 0).repeat(width // 2, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(ratio)
        if rotation:
            stream.set_display_rotation(rotation)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def with_matrix(path: Path, matrix: tuple[int, ...]) -> Path:
    """Writes the matrix into the track header, in fixed point (ISO/IEC 14496-12, 8.3.2)."""
    data = path.read_bytes()
    start = data.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", data, start) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in matrix)
    written = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:start] + written + data[start + len(written) :])
    return path


def corners(frame: np.ndarray) -> str:
    h, w, _ = frame.shape
    found = ""
    for y, x in ((h // 4, w // 4), (h // 4, -w // 4), (-h // 4, w // 4), (-h // 4, -w // 4)):
        pixel = frame[y, x].astype(int)
        found += min(COLOURS, key=lambda name: abs(pixel - COLOURS[name]).sum())
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("matrix", "shown"), MATRICES.items())
def test_every_display_matrix(
    matrix: tuple[int, ...], shown: str, backend: str, tmp_path: Path
) -> None:
    path = with_matrix(four_colours(tmp_path / "a.mp4"), matrix)
    try:
        reader = VideoReader(path, backend)
    except ImportError as error:
        pytest.skip(str(error))
    with reader:
        assert reader.size == ((64, 96) if matrix[0] else (96, 64))
        assert [corners(frame) for frame in reader.get_frames([4, 0, 2])] == [shown] * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rotation", "shown"), [(180, "YBGR"), (90, "GYRB")])
def test_rotation_in_matroska(rotation: int, shown: str, backend: str, tmp_path: Path) -> None:
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a rotation")
    path = four_colours(tmp_path / "a.mkv", rotation=rotation)
    try:
        reader = VideoReader(path, backend)
    except ImportError as error:
        pytest.skip(str(error))
    with reader:
        assert [corners(frame) for frame in reader.get_frames([0, 3])] == [shown] * 2


@pytest.mark.parametrize(("matrix", "shown"), MATRICES.items())
def test_reencoded_files_are_upright_without_a_matrix(
    matrix: tuple[int, ...], shown: str, tmp_path: Path
) -> None:
    path = with_matrix(four_colours(tmp_path / "a.mp4"), matrix)
    reencode(path, tmp_path / "b.mp4", Encoding(64))
    with av.open(str(tmp_path / "b.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [corners(frame.to_ndarray(format="rgb24")) for frame in frames] == [shown] * 5
    assert not any(av.sidedata.sidedata.Type.DISPLAYMATRIX in f.side_data for f in frames)


# Pixels that are not square


# The size of the stored frame is 96x64; of 576 lines in PAL, a pixel is 16:15 or 64:45.
RATIOS = [("1/1", (64, 96)), ("64/45", (64, 137)), ("2/1", (64, 192)), ("3/4", (85, 96))]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
@pytest.mark.parametrize(("ratio", "size"), RATIOS)
def test_square_pixels(ratio: str, size: tuple[int, int], suffix: str, tmp_path: Path) -> None:
    path = four_colours(tmp_path / f"a.{suffix}", ratio)
    with VideoReader(path, square_pixels=True) as shown, VideoReader(path) as stored:
        assert shown.size == size
        assert stored.size == (64, 96)
        assert corners(shown.get_frames([2])[0]) == "RGBY"


@pytest.mark.parametrize("backend", BACKENDS)
def test_square_pixels_of_turned_frames(backend: str, tmp_path: Path) -> None:
    """The ratio is that of the stored frame: here it makes the turned one higher."""
    path = with_matrix(four_colours(tmp_path / "a.mp4", "2/1"), (0, 1, 1, 0))
    try:
        reader = VideoReader(path, backend, square_pixels=True)
    except ImportError as error:
        pytest.skip(str(error))
    with reader:
        assert reader.size == (192, 64)
        assert [corners(frame) for frame in reader.get_frames([0, 3])] == ["RBGY"] * 2


def test_square_pixels_count_for_the_limit(tmp_path: Path) -> None:
    path = four_colours(tmp_path / "a.mp4", "40/1")
    VideoReader(path, max_pixels=64 * 96 * 2).close()
    with (
        pytest.raises(VideoError, match="3840x64"),
        VideoReader(path, max_pixels=64 * 96 * 30, square_pixels=True) as reader,
    ):
        reader.get_frames([0])


def test_reencoded_files_have_square_pixels(tmp_path: Path) -> None:
    path = four_colours(tmp_path / "a.mp4", "2/1")
    reencode(path, tmp_path / "b.mp4", Encoding(64))
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (192, 64)
        assert stream.sample_aspect_ratio in (None, 0, 1)


def test_views_follow_the_key(tmp_path: Path) -> None:
    """A clip of the test, of 96x64 with pixels twice as wide as high: 192x64 or 96x64."""
    path = four_colours(tmp_path / "a.mp4", "2/1")
    files = FileList.from_rows([(str(path), 0)])
    widths = []
    for square in (False, True):
        protocol = Protocol(2, 1, 64, 1, 3, square_pixels=square)
        views = AllViews(files, source_of("kinetics"), protocol)
        widths.append(views[0]["frames"].shape[-1])
    assert widths == [96, 192]
