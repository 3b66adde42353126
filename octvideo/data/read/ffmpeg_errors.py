"""What FFmpeg reports as errors without failing: its demuxers skip damage and only log it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import av

_lock = threading.Lock()
_users = 0
_before: tuple[int | None, bool] = (None, True)


@contextmanager
def ffmpeg_errors() -> Iterator[list[tuple[int, str, str]]]:
    """Collects the errors that FFmpeg logs in this thread: level, component and message of each.

    PyAV leaves FFmpeg's log off, for all threads alike. It is on while anyone is in here.
    """
    global _users, _before
    with _lock:
        if _users == 0:
            _before = av.logging.get_level(), av.logging.get_skip_repeated()
            av.logging.set_level(max(av.logging.ERROR, _before[0] or 0))
            av.logging.set_skip_repeated(False)  # what it repeats may be another file's
        _users += 1
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                av.logging.set_skip_repeated(_before[1])
                av.logging.set_level(_before[0])
