"""Files that appear under their name only when they are whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a hidden name beside ``path`` to write to; it becomes ``path`` if no error comes.

    The hidden name depends on ``path`` alone, so that what a killed process left behind is
    overwritten by the next attempt. The folder is made where it is missing. An OSError that names
    no file, as of a full disk, names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a text (UTF-8; bytes of file names that are not survive) or bytes, atomically."""
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    with whole_file(path) as part:
        part.write_bytes(content)
