"""Memory of this process."""

import ctypes
import sys
from pathlib import Path

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Lets glibc keep the memory that is freed, for what is allocated next.

    By default it gives large blocks back to the system, so that each forward pass on a CPU pays
    for the page faults of all its activations again: up to a tenth of its time. The process then
    stays as large as it has been at its largest.

    Returns:
        Whether it could be done: not with another C library.
    """
    libc = _glibc()
    # Everything from the heap, which is not cut back and grows in steps of 64 MB.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
    return libc is not None and all(libc.mallopt(*setting) == 1 for setting in settings)


def return_freed_memory() -> None:
    """Gives what is free at this moment back to the system, where that is possible."""
    if libc := _glibc():
        libc.malloc_trim(0)


def process_memory() -> dict[str, float]:
    """Megabytes of this process: VmRSS, what it has now, VmHWM, the most it had, and others.

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
