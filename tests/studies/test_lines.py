"""Files of JSON lines, to which studies add their results."""

from pathlib import Path

import pytest

from studies.lines import append_line, read_lines


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    file = tmp_path / "results" / "lines.jsonl"
    assert read_lines(file, missing_ok=True) == []
    lines = [{"network": "i3d", "alpha": 0.25}, {"network": "c2d", "scores": {"top1": None}}]
    for line in lines:
        append_line(file, line)
    assert read_lines(file) == read_lines(file, missing_ok=True) == lines


def test_a_table_of_no_file_is_an_error(tmp_path: Path) -> None:
    """Otherwise a mistyped name would give an empty table."""
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "lines.jsonl")
