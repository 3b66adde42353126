"""Files that are written whole or not at all."""

import pytest

from octvideo.utils.files import whole_file


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


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    path = tmp_path / "folder" / "result"
    with whole_file(path) as part:
        part.write_text("old")
    part.write_text("a longer half")
    with whole_file(path) as part:
        part.write_text("new")
    assert [p.name for p in path.parent.iterdir()] == ["result"]
    assert path.read_text() == "new"
