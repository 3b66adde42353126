"""Downloads from a server on this machine that cuts, lies and disappears."""

import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from octvideo.utils.errors import UserError
from octvideo.weights import CheckpointError, download
from octvideo.weights.download import DownloadError, cache_folder, cached_path, fetch

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; the first answers are cut after so many bytes as `cuts` says."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/zoo/model.pyth": CONTENT}
        self.cuts: list[int] = []
        self.tag: str | None = '"v1"'
        self.ranges = True
        self.failures: list[int] = []
        self.requests: list[str | None] = []  # the Range of each

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/zoo/model.pyth"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers["Range"])
        if server.failures:
            return self.send_error(server.failures.pop(0))
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if asked and server.ranges and self.headers["If-Range"] == server.tag:
            start = int(asked[1])
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(content[start : None if cut is None else start + cut])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.001)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_fetched_once(server, tmp_path, caplog):
    with caplog.at_level("INFO", "octvideo"):
        path = fetch(server.address, None, tmp_path)
    assert path == tmp_path / "zoo" / "model.pyth"
    assert path.read_bytes() == CONTENT
    assert SHA256 in caplog.text  # unknown beforehand: told
    assert fetch(server.address, SHA256, tmp_path) == path
    assert server.requests == [None]
    assert [p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")] == [path.name]


def test_cut_connections_are_taken_up_where_they_were(server, tmp_path):
    server.cuts = [1_000_000, 0, 500_000]
    assert fetch(server.address, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.requests == [
        None,
        "bytes=1000000-",
        "bytes=1000000-",
        "bytes=1500000-",
    ]


def test_another_process_takes_up_what_one_left(server, tmp_path):
    server.cuts = [1_000_000] + [0] * 10
    with pytest.raises(DownloadError, match="cut after 1000000 of 3000000"):
        fetch(server.address, SHA256, tmp_path)
    server.cuts, server.requests = [], []
    assert fetch(server.address, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000000-"]


def test_everything_was_there_but_the_name(server, tmp_path):
    path = cached_path(server.address, tmp_path)
    path.parent.mkdir(parents=True)
    path.with_name("model.pyth.part").write_bytes(CONTENT)
    path.with_name("model.pyth.part.tag").write_text('"v1"')
    assert fetch(server.address, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=3000000-"]


def test_a_file_that_has_changed_is_fetched_anew(server, tmp_path):
    server.cuts = [1_000_000] + [0] * 10
    with pytest.raises(DownloadError):
        fetch(server.address, None, tmp_path)
    server.cuts, server.tag, server.files["/zoo/model.pyth"] = [], '"v2"', CONTENT[::-1]
    assert fetch(server.address, None, tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("what", ["no tag", "no ranges"])
def test_servers_that_know_less(server, tmp_path, what):
    if what == "no tag":
        server.tag = None
    server.ranges = False
    server.cuts = [1_000_000, 2_000_000]
    assert fetch(server.address, SHA256, tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.failures = [503, 429]
    assert fetch(server.address, SHA256, tmp_path).read_bytes() == CONTENT


def test_wrong_sha256(server, tmp_path):
    wrong = "0" * 64
    with pytest.raises(UserError, match=f"{SHA256}.*{wrong}") as error:
        fetch(server.address, wrong, tmp_path)
    assert server.address in str(error.value)
    assert not cached_path(server.address, tmp_path).exists()
    fetch(server.address, SHA256, tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.pyth"):  # a file that was there already
        fetch(server.address, wrong, tmp_path)


def test_no_such_file(server, tmp_path):
    address = server.address.replace("model", "other")
    with pytest.raises(DownloadError, match="HTTP 404") as error:
        fetch(address, None, tmp_path)
    assert str(tmp_path / "zoo" / "other.pyth") in str(error.value)
    assert len(server.requests) == 1


def test_no_network(server, tmp_path):
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="put it there") as error:
        fetch(address, None, tmp_path)
    assert str(tmp_path / "zoo" / "model.pyth") in str(error.value)
    path = tmp_path / "zoo" / "model.pyth"
    path.write_bytes(CONTENT)  # as the message says
    assert fetch(address, SHA256, tmp_path) == path


def test_local_files(tmp_path):
    (tmp_path / "a.pyth").write_bytes(CONTENT)
    assert fetch(str(tmp_path / "a.pyth"), SHA256) == tmp_path / "a.pyth"
    with pytest.raises(DownloadError, match="there is no file"):
        fetch(str(tmp_path / "b.pyth"))


@pytest.mark.parametrize("address", ["s3://bucket/I3D.pyth", "manifold://tree/I3D.pyth"])
def test_addresses_of_other_kinds(tmp_path, address):
    with pytest.raises(DownloadError, match=f"{address}.*only http"):
        fetch(address, None, tmp_path)


def test_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("OCTVIDEO_CACHE", raising=False)
    monkeypatch.delenv("FVCORE_CACHE", raising=False)
    assert cache_folder().parts[-2:] == (".cache", "octvideo")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "f"))
    assert cache_folder() == tmp_path / "f"
    monkeypatch.setenv("OCTVIDEO_CACHE", str(tmp_path / "o"))
    assert cache_folder() == tmp_path / "o"
    inside = cached_path("https://a.b/../../c%2F..%2Fd.pkl")
    assert inside == tmp_path / "o" / "c" / "d.pkl"


def test_a_cache_that_can_not_be_written(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("OCTVIDEO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=f"the cache {tmp_path}/cache can .* set OCTVIDEO_CACHE"):
        fetch("http://127.0.0.1:9/zoo/model.pyth")


def test_the_cache_is_shared_with_iopath(server, monkeypatch, tmp_path):
    from iopath.common.file_io import HTTPURLHandler, PathManager

    paths = PathManager()
    paths.register_handler(HTTPURLHandler())
    theirs = paths.get_local_path(server.address, cache_dir=str(tmp_path))
    assert theirs == str(fetch(server.address, SHA256, tmp_path))
    assert len(server.requests) == 1
