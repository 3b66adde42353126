"""Sets, measures and explains the memory of this process."""

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from octvideo.utils.errors import UserError

MORE_SHARED_MEMORY = (
    "give it more (docker run --shm-size 8g, or --ipc host), or lower DATA_LOADER.NUM_WORKERS"
)

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next allocations.

    By default it gives large blocks back to the system, so each forward pass on a CPU pays for the
    page faults of all its activations again: up to a tenth of its time. With this setting the
    process stays as large as it has ever been.

    Returns:
        Whether it took effect; other C libraries do not have the setting.
    """
    libc = _glibc()
    # Everything from the heap, which is not cut back and grows in steps of 64 MB.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
    return libc is not None and all(libc.mallopt(*setting) == 1 for setting in settings)


@contextmanager
def advice_when_out_of_memory(where: str, advice: str) -> Iterator[None]:
    """Turns running out of memory (of a GPU or of the machine) into a UserError with advice."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if is_shared_memory_full(error):
            raise UserError(
                f"{shared_memory()} is full in {where}: {MORE_SHARED_MEMORY}"
            ) from error
        if not _is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or "MemoryError"
        raise UserError(f"out of memory in {where}: {advice} ({reason})") from error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = "out of memory|can't allocate memory|_STATUS_ALLOC_FAILED"
    return isinstance(error, MemoryError) or re.search(words, str(error)) is not None


def is_shared_memory_full(error: Exception) -> bool:
    """Returns whether shared memory could not be allocated, or a process died for lack of it."""
    words = "unable to (allocate|resize|mmap).*shared memory|killed by signal: Bus error"
    return isinstance(error, RuntimeError) and re.search(words, str(error)) is not None


def shared_memory() -> str:
    """Returns shared memory's name and size, for messages."""
    try:
        found = os.statvfs("/dev/shm")
    except (OSError, AttributeError):  # not on Linux
        return "shared memory"
    return f"shared memory (/dev/shm, {found.f_blocks * found.f_frsize / 2**20:.0f} MB)"


def process_memory() -> dict[str, float]:
    """Returns this process's sizes in MB: VmRSS (now), VmHWM (its largest), and others.

    Raises:
        OSError: not on Linux.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(kilobytes) / 2**10 for name, kilobytes, _ in sizes}


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None  # musl has none
