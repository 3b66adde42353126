"""Files that are written whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from octvideo.utils.files import whole_file, write_whole


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")

    def write_half():
        with whole_file(path) as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
    assert path.read_text() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from octvideo.utils.files import whole_file
with whole_file(Path(sys.argv[1])) as part:
    part.write_text("a longer half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    path = tmp_path / "folder" / "result"
    killed = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert killed.returncode == -9
    assert [p.read_text() for p in path.parent.iterdir()] == ["a longer half"]
    with whole_file(path) as part:
        part.write_text("new")
    assert [p.name for p in path.parent.iterdir()] == ["result"]
    assert path.read_text() == "new"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "result"
    with whole_file(path) as first:
        first.write_text("first, and long")
        with whole_file(path) as second:  # as by another process: a lock of its own descriptor
            assert second != first
            second.write_text("second")
            assert first.read_text() == "first, and long"
        assert path.read_text() == "second"
    assert path.read_text() == "first, and long"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


WRITER = """
import sys
from pathlib import Path
from octvideo.utils.files import write_whole
sys.stdin.readline()
for number in range(150):
    write_whole(Path(sys.argv[1]), f"{sys.argv[2]} {number}\\n" * 1000)
"""


def test_processes_that_write_one_file(tmp_path):
    path = tmp_path / "result"
    command = [sys.executable, "-c", WRITER, str(path)]
    jobs = [subprocess.Popen([*command, name], stdin=subprocess.PIPE) for name in "ab"]
    for job in jobs:
        job.stdin.write(b"go\n")
        job.stdin.flush()
    assert [job.wait(60) for job in jobs] == [0, 0]
    [line] = set(path.read_text().splitlines())  # all of one job's
    assert line.endswith(" 149")
    assert len(path.read_text().splitlines()) == 1000
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.fstat(fd).st_ino), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda p, q: (done.append("renamed"), replace(p, q)))
    write_whole(tmp_path / "result", b"content")
    assert done == [(tmp_path / "result").stat().st_ino, "renamed"]


def test_the_longest_names(tmp_path):
    for name in ("x" * 255, "é" * 127):
        write_whole(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with whole_file(tmp_path / "result") as first, whole_file(tmp_path / "result") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "result").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
