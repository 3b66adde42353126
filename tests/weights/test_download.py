"""Downloads from a server on this machine that cuts, lies and disappears."""

import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from octvideo.utils.errors import UserError
from octvideo.weights import CheckpointError, download, read_weights
from octvideo.weights.download import DownloadError, cache_folder, cached_path, fetch

CONTENT = b"PK\x03\x04" + os.urandom(2_999_996)  # begins as a file of torch.save
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
        self.lengths: list[str] | None = None  # in place of the one Content-Length

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
        for length in server.lengths or [str(len(content) - start)]:
            self.send_header("Content-Length", length)
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
    assert path == cached_path(server.address, tmp_path)
    assert path.name == "model.pyth"
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
    other = CONTENT[:4] + CONTENT[:3:-1]
    server.cuts, server.tag, server.files["/zoo/model.pyth"] = [], '"v2"', other
    assert fetch(server.address, None, tmp_path).read_bytes() == other


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
    assert str(cached_path(address, tmp_path)) in str(error.value)
    assert len(server.requests) == 1


def test_no_network(server, tmp_path):
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="put it here") as error:
        fetch(address, None, tmp_path)
    path = cached_path(address, tmp_path)
    assert str(error.value).endswith(str(path))
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
    assert inside.parent.parent == tmp_path / "o" / "a.b"
    assert inside.name == "d.pkl"


def test_a_cache_that_can_not_be_written(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("OCTVIDEO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=f"the cache {tmp_path}/cache cannot .* set OCTVIDEO_CACHE"):
        fetch("http://127.0.0.1:9/zoo/model.pyth")


# ---------------------------------------------------------------- one file for each address


def test_query_and_host_are_part_of_the_address(server, tmp_path):
    files = {f"/uc?id={name}": CONTENT[:-1] + name.encode() for name in "AB"}
    server.files |= files
    port = server.server_port
    for path, content in files.items():
        assert fetch(f"http://127.0.0.1:{port}{path}", None, tmp_path).read_bytes() == content
    paths = [cached_path(f"http://{host}/m.pyth") for host in ("a.org", "b.org", "a.org:81")]
    assert len(set(paths)) == 3
    same = [
        f"{scheme}://A.org{end}/m.pyth#top" for scheme in ("http", "HTTP") for end in ("", ":80")
    ]
    assert {cached_path(address) for address in same} == {paths[0]}


ODD = {  # what is typed, what the server is asked for
    "/a%00b.pyth": "/a%00b.pyth",
    "/gewichte für video.pyth": "/gewichte%20f%C3%BCr%20video.pyth",
    "/100%.pyth": "/100%25.pyth",
    "/" + "n" * 300 + ".pyth": "/" + "n" * 300 + ".pyth",
    "/" + "é" * 200 + ".pyth": "/" + "%C3%A9" * 200 + ".pyth",
    "/?id=1": "/?id=1",
    "/..": "/..",
}


@pytest.mark.parametrize("typed", ODD)
def test_odd_addresses(server, tmp_path, typed):
    server.files[ODD[typed]] = CONTENT
    address = f"HTTP://127.0.0.1:{server.server_port}{typed}"
    path = fetch(address, None, tmp_path)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path)
    assert fetch(address, None, tmp_path) == path
    assert len(server.requests) == 1


NO_ADDRESSES = [
    "http:///m.pyth",
    "http://[::1/m.pyth",
    "http://h:port/m.pyth",
    "http://h:99999/m.pyth",
    "file:///etc/passwd",
    "http://user:word@h/m.pyth",
    "http://a..b/m.pyth",
    "://",
]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_addresses_that_name_nothing(tmp_path, address):
    with pytest.raises(DownloadError):
        fetch(address, None, tmp_path)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- what is served in its place


@pytest.mark.parametrize("length", [[str(len(CONTENT))] * 2, [f"{len(CONTENT)}, {len(CONTENT)}"]])
def test_a_length_that_is_sent_twice(server, tmp_path, length):
    server.lengths, server.cuts = length, [1_000_000]
    assert fetch(server.address, SHA256, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("length", ["-5", "many", "9" * 400, ""])
def test_a_length_that_is_none(server, tmp_path, length):
    server.lengths = [length]
    assert fetch(server.address, SHA256, tmp_path).read_bytes() == CONTENT


def test_two_lengths(server, tmp_path):
    server.lengths = ["5", "6"]
    with pytest.raises(DownloadError, match="several lengths: 5, 6"):
        fetch(server.address, None, tmp_path)


def test_a_page_is_no_checkpoint(server, tmp_path):
    """Status 200 and HTML, as of a log-in: nothing of it stays."""
    server.files["/zoo/model.pyth"] = b"<!DOCTYPE html><html>please log in</html>"
    for _ in range(2):
        with pytest.raises(DownloadError, match="DOCTYPE html"):
            fetch(server.address, None, tmp_path)
    server.files["/zoo/model.pyth"] = CONTENT
    assert fetch(server.address, None, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("legacy", [False, True])
def test_a_short_file_does_not_stay(server, monkeypatch, tmp_path, legacy):
    """Whole by its length, and cut where it was copied: only reading it shows that."""
    monkeypatch.setenv("OCTVIDEO_CACHE", str(tmp_path))
    state = {"s1.pathway0_stem.conv.weight": torch.arange(5000.0)}
    torch.save(state, tmp_path / "m.pyth", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "m.pyth").read_bytes()
    server.files["/zoo/model.pyth"] = whole[: len(whole) // 2]
    with pytest.raises(CheckpointError, match=server.address):
        read_weights(server.address)
    server.files["/zoo/model.pyth"] = whole
    for _ in range(2):
        assert torch.equal(*read_weights(server.address).state.values(), *state.values())
    assert len(server.requests) == 2
