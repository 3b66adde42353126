"""Files from the network: fetched once, resumed after a cut, checked before use.

Downloads go through iopath, with a handler that keeps what has come when a connection is cut, and
asks for the rest. The cache has a file where iopath has it: under the path of its address.
"""

import errno
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import unquote, urlparse

from iopath.common.file_io import HTTPURLHandler, PathManager, file_lock
from tqdm import tqdm

from octvideo.utils.errors import UserError
from octvideo.weights.files import sha256_of, verify_sha256

logger = logging.getLogger("octvideo")

_TRIES = 4  # connections that bring nothing new, one after another
_TIMEOUT = 30.0  # seconds without a byte
_PAUSE = 1.0  # seconds before the next try, doubled each time
_BLOCK = 1 << 18
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class DownloadError(UserError):
    """A file that can not be had; the message says which one to put where."""


def cache_folder() -> Path:
    """$OCTVIDEO_CACHE, else $FVCORE_CACHE, else ~/.cache/octvideo."""
    for name in ("OCTVIDEO_CACHE", "FVCORE_CACHE"):
        if folder := os.environ.get(name):
            return Path(folder).expanduser()
    return Path("~/.cache/octvideo").expanduser()


def cached_path(address: str, folder: Path | None = None) -> Path:
    """Where the file of an address is kept, whether it is there or not."""
    parts = [p for p in unquote(urlparse(address).path).split("/") if p not in ("", ".", "..")]
    if not parts:
        raise ValueError(f"{address!r} names no file")
    return (folder or cache_folder()).joinpath(*parts)


def is_address(path: Path | str) -> TypeGuard[str]:
    """Whether it names a file on the web."""
    return isinstance(path, str) and "://" in path


def fetch(address: str, sha256: str | None = None, folder: Path | None = None) -> Path:
    """The local file of an address (http, https, or a path): from the cache, or downloaded to it.

    sha256: of the whole file, or its beginning; None where it is not known: then the file's own
    is logged.

    Raises:
        DownloadError: there is no such file, no network, or no end to cut connections.
        CheckpointError: the file is another one than meant.
        UserError: the cache can not be written.
    """
    if not is_address(address):
        path = Path(address).expanduser()
        if not path.is_file():
            raise DownloadError(f"there is no file {path}")
    elif urlparse(address).scheme.lower() not in ("http", "https", "ftp"):
        raise DownloadError(
            f"{address} can not be downloaded: only http, https and ftp are known here. Fetch the "
            "file and give its path"
        )
    else:
        was_there = cached_path(address, folder).is_file()
        cache = str(folder) if folder else None
        try:
            path = Path(_paths().get_local_path(address, cache_dir=cache, sha256=sha256))
        except OSError as error:
            raise UserError(
                f"the cache {folder or cache_folder()} can not be written: {error}; make room "
                "there, or set OCTVIDEO_CACHE to a folder that can be written"
            ) from error
        if not was_there:
            return path  # checked before it came to its place
    if sha256:
        verify_sha256(path, sha256)
    return path


def _paths() -> PathManager:
    paths = PathManager()
    paths.register_handler(_Handler())
    return paths


class _Handler(HTTPURLHandler):
    """iopath's handler of http addresses, with downloads that are resumed and checked."""

    def _get_local_path(
        self,
        path: str,
        force: bool = False,
        cache_dir: str | None = None,
        sha256: str | None = None,
        **kwargs: Any,
    ) -> str:
        self._check_kwargs(kwargs)
        target = cached_path(path, Path(cache_dir) if cache_dir else None)
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(target)):  # another process may be fetching it
            if force or not target.is_file():
                _download(path, target, sha256)
        return str(target)


def _download(address: str, target: Path, sha256: str | None) -> None:
    part = target.with_name(f"{target.name}.part")
    logger.info("Downloading %s to %s", address, target)
    tries, pause = 0, _PAUSE
    while True:
        before = _size(part)
        try:
            _receive(address, part)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise _unavailable(address, target, f"HTTP {error.code} {error.reason}") from error
            reason: Exception = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise
            reason = error
        tries = 1 if _size(part) > before else tries + 1
        if tries >= _TRIES:
            raise _unavailable(address, target, _text_of(reason)) from reason
        logger.warning("%s: %s; trying again", address, _text_of(reason))
        time.sleep(pause)
        pause *= 2
    if sha256:
        try:
            verify_sha256(part, sha256)
        except UserError as error:
            part.unlink()
            raise UserError(f"{address} was downloaded, and removed again: {error}") from error
    else:
        logger.info("%s: its SHA-256 is not known beforehand; it is %s", address, sha256_of(part))
    os.replace(part, target)
    _validator(part).unlink(missing_ok=True)


def _receive(address: str, part: Path) -> None:
    """One connection: adds to ``part`` until it is whole, or raises."""
    have, validator = _size(part), _validator(part)
    headers = {"User-Agent": "octvideo", "Accept-Encoding": "identity"}
    if have and validator.is_file():  # the rest, if the file is still the same
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    request = urllib.request.Request(address, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and "Range" in headers:  # nothing is left, or it has shrunk
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):
                return
            part.unlink()
            raise ConnectionError("the file has changed, from the start again") from error
        raise
    with response:
        expected = response.headers.get("Content-Length")
        if response.status != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("another part came than was asked for, from the start again")
        total = None if expected is None else have + int(expected)
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if tag and not tag.startswith("W/"):
            validator.write_text(tag)
        else:
            validator.unlink(missing_ok=True)
        _copy(response, part, have, total)


def _copy(response: http.client.HTTPResponse, part: Path, have: int, total: int | None) -> None:
    bar = tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=None)
    with open(part, "ab" if have else "wb") as file, bar:
        while block := response.read(_BLOCK):
            file.write(block)
            bar.update(len(block))
            have += len(block)
    if total is not None and have < total:
        raise ConnectionError(f"the connection was cut after {have} of {total} bytes")
    if not have:
        raise ConnectionError("an empty file came")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _validator(part: Path) -> Path:
    """What tells whether the file behind the address is still the one that ``part`` is of."""
    return part.with_name(f"{part.name}.tag")


def _text_of(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _unavailable(address: str, target: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"{address} can not be downloaded: {reason}. Fetch it elsewhere and put it there: {target}"
    )
