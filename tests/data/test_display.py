"""Frames as they are meant to be shown: display matrices."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from octvideo.data.reader import BACKENDS, VideoReader
from octvideo.data.reencode import Encoding, reencode

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


def four_colours(path: Path, height: int = 64, width: int = 96, frames: int = 5) -> Path:
    image = np.empty((2, 2, 3), np.uint8)
    image[0], image[1] = [COLOURS["R"], COLOURS["G"]], [COLOURS["B"], COLOURS["Y"]]
    image = image.repeat(height // 2, 0).repeat(width // 2, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
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
