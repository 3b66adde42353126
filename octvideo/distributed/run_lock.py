"""One training run in a folder at a time."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from octvideo.distributed.collectives import on_main
from octvideo.utils.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("octvideo")

LOCK_FILE = ".lock"
PATIENCE = 10.0  # seconds; a process that was asked to end may still be there


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Keeps other training runs out of ``folder`` until the context, or the main process, ends.

    The lock is a POSIX record lock: the system frees it however the process ends, and forked
    workers do not hold it. On a shared file system it may outlive a node that died, so a lock from
    another machine is only a warning, as is a file system without locks. Without ``fcntl``, which
    is part of POSIX, nothing is locked.

    Raises:
        UserError: another process of this machine trains there. Raised on all processes.
    """
    with ExitStack() as stack:
        on_main(lambda: _lock(folder, stack))
        yield


def _lock(folder: Path, stack: ExitStack) -> None:
    if fcntl is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context((folder / LOCK_FILE).open("a+", encoding="utf-8"))
    except OSError:
        return  # the next thing that the run writes there reports it
    try:
        if _is_free_in_time(file, folder):
            _name_holder(file)
        else:
            _refuse(folder, file)
    except OSError as error:
        logger.warning(
            "OUTPUT_DIR %s cannot be locked (%s): nothing keeps a second run from writing there",
            folder,
            error.strerror,
        )


def _is_free_in_time(file: IO[str], folder: Path) -> bool:
    begin = time.monotonic()
    is_reported = False
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, by the system
            waited = time.monotonic() - begin
        if waited > PATIENCE:
            return False
        if waited > 1 and not is_reported:
            text = "Another run trains in OUTPUT_DIR %s; it may be about to end: waiting %g s"
            logger.warning(text, folder, PATIENCE)
            is_reported = True
        time.sleep(0.2)


def _refuse(folder: Path, file: IO[str]) -> None:
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except json.JSONDecodeError:
        holder = {}
    if not holder:  # its disk may have been full; it may be a process of this machine
        raise UserError(
            f"another process is training in OUTPUT_DIR {folder}: it holds {folder / LOCK_FILE}, "
            "without its name in it. Wait for it, stop it, or set another OUTPUT_DIR; if no run is "
            "there, remove that file"
        )
    who = f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"
    if holder.get("boot") == _boot():
        raise UserError(
            f"{who} is training in OUTPUT_DIR {folder}: wait for it, stop it (it saves and can be "
            "continued), or set another OUTPUT_DIR"
        )
    logger.warning("%s may be training in OUTPUT_DIR %s, too: it holds the lock", who, folder)


def _name_holder(file: IO[str]) -> None:
    file.truncate(0)
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot()}
    file.write(json.dumps(holder) + "\n")
    file.flush()


def _boot() -> str:
    """Returns an id that all processes which see each other's numbers and locks share."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else socket.gethostname()
