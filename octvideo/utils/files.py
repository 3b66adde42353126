"""Files that appear under their name only when they are whole."""

import csv
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from octvideo.utils.errors import UserError

try:
    import fcntl
except ImportError:  # it is part of POSIX
    fcntl = None  # type: ignore[assignment]

_MAX_NAME_BYTES = 200  # file systems allow 255 for a name; a hidden one is longer


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a hidden name beside ``path`` to write to; it becomes ``path`` if no error comes.

    Its content is on the disk before it gets its name, so that no loss of power leaves an empty
    file that looks like a result. Several processes may write one path at once: each has a hidden
    name of its own, and the last one to finish stays. What a killed process left behind is
    overwritten by the next attempt. The folder is made where it is missing. An OSError that names
    no file, as of a full disk, names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, lock = _own_part(path)
    try:
        yield part
        _sync(part)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)  # not after the rename: the name may be another process's
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _own_part(path: Path) -> tuple[Path, int | None]:
    """A hidden file that is empty and nobody else's, and the descriptor whose lock says so.

    The lock ends with the process, whatever ends it. Where there are no locks the name is random.
    """
    name = path.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    for number in count() if fcntl else ():
        part = path.with_name(f".{name}.{number}.part" if number else f".{name}.part")
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if part.exists():  # another user's
                continue
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls it may have been renamed or removed by who had the lock.
            if _is(part, descriptor):
                os.ftruncate(descriptor, 0)
                return part, descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
        except OSError:  # no locks on this file system
            os.close(descriptor)
            part.unlink(missing_ok=True)
            break
    return path.with_name(f".{name}.{uuid.uuid4().hex[:12]}.part"), None


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a text (UTF-8; bytes of file names that are not survive) or bytes, atomically."""
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    with whole_file(path) as part:
        part.write_bytes(content)


def claim(file: Path, settings: Mapping[str, object]) -> None:
    """Writes into a folder what its content is made with, or checks that it is made so.

    file: takes the settings, as JSON.

    Raises:
        UserError: the content was made with other settings, or nobody knows.
    """
    wanted = json.loads(json.dumps(settings))
    if not file.exists():
        write_whole(file, json.dumps(wanted, indent=2) + "\n")
        return
    try:
        found = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): choose another folder") from error
    if differ := [key for key in wanted if found.get(key) != wanted[key]]:
        changes = (f"{key} {found.get(key)!r}, now {wanted[key]!r}" for key in differ)
        raise UserError(
            f"{file.parent} holds files made in another way: {'; '.join(changes)}: choose another "
            "folder"
        )


def has_content(path: Path) -> bool:
    """Whether a file is there; a loss of power may have left nothing but its name."""
    return path.is_file() and path.stat().st_size > 0


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Writes a csv file; paths in it may hold bytes that are not UTF-8, which stay as they are."""
    with (
        whole_file(path) as part,
        open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)
