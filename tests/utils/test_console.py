"""What reaches a terminal."""

import io
import logging
import os

import pytest

from octvideo.data import VideoError
from octvideo.engine.log import close_logging, setup_logging
from octvideo.utils.console import printable, printable_text, say


def test_every_character(tmp_path):
    """ASCII against repr, which escapes by a table of its own."""
    for code in range(128):
        wanted = repr(chr(code))[1:-1].replace("\\\\", "\\")
        assert printable(chr(code)) == wanted
    assert printable("é あ \u202e \x9b \u2028") == r"é あ \u202e \x9b \u2028"
    assert printable(os.fsdecode(b"\xff.mp4")) == r"\xff.mp4"
    assert printable("\U0001f469\u200d\U0001f680") == "\U0001f469\u200d\U0001f680"
    assert printable_text("a\n\tb\r") == "a\n\tb\\r"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stream_of_any_encoding(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    say("é あ \udcff", stream)
    shown = {"ascii": r"\xe9 \u3042", "latin-1": r"é \u3042", "utf-8": "é あ"}[encoding]
    assert raw.getvalue().decode(encoding) == f"{shown} \\xff\n"


def test_a_log_escapes_what_it_is_given(tmp_path, capsys):
    setup_logging(tmp_path)
    try:
        logging.getLogger("octvideo").warning("%s", VideoError("a\x1b[2J\nb.mp4", "\x07 reason"))
    finally:
        close_logging()
    for text in (capsys.readouterr().out, (tmp_path / "stdout.log").read_text()):
        assert text.endswith("a\\x1b[2J\\nb.mp4: \\x07 reason\n")
