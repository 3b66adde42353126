"""Files that name other files or addresses are no videos, and names of files mean nothing."""

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from octvideo.data.prepare.reencode import check_video, reencode
from octvideo.data.read.video import BACKENDS, VideoError, VideoReader, check_backend

HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.4,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000">'
    "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>"
)
PLAYLISTS = {
    "a.mp4": "ffconcat version 1.0\nfile {}\n",
    "a.ffconcat": "ffconcat version 1.0\nfile {}\n",
    "a.m3u8": HLS,
    "b.mp4": HLS,
    "a.mpd": DASH,
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    try:
        check_backend(request.param)
    except ImportError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Ten grey frames in an MP4, each brighter than the one before."""
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(10):
            image = np.full((96, 128, 3), 20 * number + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def server(video: Path) -> Iterator[ThreadingHTTPServer]:
    """Gives the video to whoever comes, and keeps the visits."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.visits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(video.read_bytes())

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.visits = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("name", PLAYLISTS)
def test_no_other_file_is_opened(
    name: str, backend: str, video: Path, server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    """Whether a playlist names a file, an address or itself, which took all memory."""
    playlist = tmp_path / name
    host = f"127.0.0.1:{server.server_port}"
    for target in (video.name, str(video), name, f"http://{host}/a.mp4", f"tcp://{host}"):
        playlist.write_text(PLAYLISTS[name].format(target))
        with pytest.raises(VideoError, match=name):
            VideoReader(playlist, backend)
    with pytest.raises(VideoError, match=name):
        check_video(playlist)
    with pytest.raises(VideoError, match=name):
        reencode(playlist, tmp_path / "out.mp4")
    assert server.visits == []


def test_what_is_no_video_is_said_in_words(tmp_path: Path, backend: str) -> None:
    """FFmpeg's own words are "Invalid data found when processing input", whatever it is."""
    contents = {"empty.mp4": b"", "list.mp4": PLAYLISTS[next(iter(PLAYLISTS))].encode(), "t": b"hi"}
    reasons = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError) as caught:
            VideoReader(tmp_path / name, backend)
        reasons.append(caught.value.reason)
    assert reasons[0] == "the file is empty"
    assert all("format" in reason for reason in reasons[1:])


@pytest.mark.parametrize("name", ["a%03d.png", "a.m3u8", "a.txt", "concat:a|b", "http:a"])
def test_names_mean_nothing(
    name: str, backend: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg takes a%03d.png for a001.png, a002.png and so on."""
    Image.new("RGB", (128, 96)).save(tmp_path / "a001.png")
    shutil.copy(video, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with VideoReader(name, backend) as reader:
        assert reader.num_frames == 10
        grey = reader.get_frames([1, 9]).mean((1, 2, 3))
    np.testing.assert_allclose(grey, [40, 200], atol=3)
