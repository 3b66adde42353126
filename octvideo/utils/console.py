"""Makes text safe for terminals and logs: file names may hold anything but a slash and a NUL."""

import logging
import re
import sys
from typing import TextIO

# Control characters, lone surrogates (bytes that are not UTF-8), line separators, and those that
# reverse the direction of what follows. A zero-width joiner belongs to names in many scripts.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_UNSAFE_IN_TEXT = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(name: object) -> str:
    r"""Returns a one-line text with everything escaped that could control a terminal.

    Line breaks are escaped too, so that a name cannot look like two lines: ``a\nb`` becomes
    ``a\\nb``.
    """
    return _UNSAFE.sub(_escaped, str(name))


def printable_text(text: str) -> str:
    """Does the same for a message of several lines: line breaks and tabs stay."""
    return _UNSAFE_IN_TEXT.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # the byte that Python's surrogateescape stands for
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a text; what the encoding of the stream (standard output) lacks is escaped."""
    stream = sys.stdout if file is None else file
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = printable_text(text).encode(encoding, "backslashreplace").decode(encoding)
    print(line, file=stream, flush=True)


class PrintableFormatter(logging.Formatter):
    """Formats log lines so that no file name in them can control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_text(super().format(record))


def escape_warnings() -> None:
    """Escapes the library's warnings on standard error, for a tool that has no log."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
