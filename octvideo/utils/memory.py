"""Memory of this process."""

import ctypes
import sys

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
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    # Everything from the heap, which is not cut back and grows in steps of 64 MB.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
    return all(mallopt(option, value) == 1 for option, value in settings)
