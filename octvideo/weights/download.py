"""Downloads files once, resumes after a cut connection, and checks them before use.

A download keeps what has arrived when a connection is cut and asks for the rest. A file moves to
its place in the cache only when it is complete and is a checkpoint.
"""

import errno
import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import TypeGuard
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from iopath.common.file_io import file_lock
from tqdm import tqdm

from octvideo.utils.errors import UserError
from octvideo.weights.formats.files import CheckpointError, file_format, sha256_of, verify_sha256
from octvideo.weights.pretrained import HUB, fetch_repository

logger = logging.getLogger("octvideo")

_TRIES = 4  # connections that bring nothing new, one after another
_TIMEOUT = 30.0  # seconds without a byte
_PAUSE = 1.0  # seconds before the next try, doubled each time
_BLOCK = 1 << 18
_LONGEST = 80  # characters of an address that are kept in a file name
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_SCHEMES = {"http": 80, "https": 443, "ftp": 21}  # and their usual ports


class DownloadError(UserError):
    """A file cannot be downloaded; the message says which file to put where."""


def cache_folder() -> Path:
    """Returns $OCTVIDEO_CACHE, else $FVCORE_CACHE, else ~/.cache/octvideo."""
    for name in ("OCTVIDEO_CACHE", "FVCORE_CACHE"):
        if folder := os.environ.get(name):
            return Path(folder).expanduser()
    return Path("~/.cache/octvideo").expanduser()


def cached_path(address: str, folder: Path | None = None) -> Path:
    """Returns where the file of an address is cached, whether it exists or not: host/hash/name.

    The hash covers the whole address, so no two addresses share a file, whatever their host and
    query.

    Raises:
        DownloadError: the address is not one that files can be downloaded from.
    """
    address = _normalized(address)
    url = urlsplit(address)
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    name = _file_name(unquote(url.path).rpartition("/")[2])
    return (folder or cache_folder()) / _file_name(url.netloc) / digest / (name or "file")


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII)[-_LONGEST:].lstrip(".")


def _normalized(address: str) -> str:
    """Returns the one spelling of an address, in characters that a request may contain."""
    try:
        url = urlsplit(address.strip())
        host, port = (url.hostname or "").encode("idna").decode(), url.port
    except ValueError as error:
        raise DownloadError(f"{address!r} is not a valid address: {error}") from error
    if url.scheme not in _SCHEMES:
        raise DownloadError(
            f"{address} cannot be downloaded: only http, https and ftp are supported. Download "
            "the file yourself and give its path"
        )
    if not host or "@" in url.netloc:
        problem = "contains a user name" if host else "names no host"
        raise DownloadError(f"{address!r} {problem}: download the file yourself and give its path")
    host = f"[{host}]" if ":" in host else host
    place = host if port in (None, _SCHEMES[url.scheme]) else f"{host}:{port}"
    return urlunsplit((url.scheme, place, _quoted(url.path) or "/", _quoted(url.query), ""))


def _quoted(text: str) -> str:
    """Escapes what may not be in an address with %; existing escapes stay."""
    return re.sub("%(?![0-9a-fA-F]{2})", "%25", quote(text, safe="/%:@!$&'()*+,;=~?"))


def is_address(path: str | os.PathLike[str]) -> TypeGuard[str]:
    """Returns whether a path is the address of a file on the web."""
    return isinstance(path, str) and "://" in path


def fetch(address: str, sha256: str | None = None, folder: Path | None = None) -> Path:
    """Returns the local file of an address (http, https, ftp, or a path), downloading it if needed.

    Of "hf://owner/name" it is the weights in that repository of the Hugging Face Hub.

    Args:
        sha256: of the whole file, or its first digits. None: unknown; then a download must at least
            begin as a checkpoint does, and its SHA-256 is logged.

    Raises:
        DownloadError: the file does not exist, the network fails, connections keep being cut, or
            the server sends something else.
        CheckpointError: the file does not have this SHA-256.
        UserError: the cache cannot be written.
    """
    if address.startswith(HUB):
        path = fetch_repository(address)
    elif not is_address(address):
        path = Path(address).expanduser()
        if not path.is_file():
            raise DownloadError(f"there is no file {path}")
    else:
        path = cached_path(address, folder)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(str(path)):  # another process may be downloading it
                if not path.is_file():
                    _download(address, path, sha256)
                    return path  # checked already
        except OSError as error:
            raise UserError(
                f"the cache {folder or cache_folder()} cannot be written: {error}; make room "
                "there, or set OCTVIDEO_CACHE to a folder that can be written"
            ) from error
    if sha256:
        verify_sha256(path, sha256)
    return path


def _download(address: str, target: Path, sha256: str | None) -> None:
    part = target.with_name(f"{target.name}.part")
    logger.info("Downloading %s to %s", address, target)
    tries, pause = 0, _PAUSE
    while True:
        before = _size(part)
        try:
            _receive(_normalized(address), part)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise _unavailable(address, target, f"HTTP {error.code} {error.reason}") from error
            reason: Exception = error
        except (http.client.InvalidURL, ValueError) as error:  # of a redirection
            raise _unavailable(address, target, str(error)) from error
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
        _check_content(address, part)
        logger.info("%s has the SHA-256 %s", address, sha256_of(part))
    os.replace(part, target)
    _validator(part).unlink(missing_ok=True)


def _check_content(address: str, part: Path) -> None:
    """Rejects what is not a checkpoint: a server may send a log-in page with status 200."""
    try:
        file_format(part)
    except CheckpointError as error:
        with open(part, "rb") as file:
            start = file.read(40)
        part.unlink()
        raise DownloadError(
            f"{address} is not a checkpoint: what the server sent begins with {start!r}. Open the "
            "address in a browser, and give the one that the file itself comes from"
        ) from error


def _receive(address: str, part: Path) -> None:
    """Opens one connection and adds to ``part`` until it is complete; raises if it is cut."""
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
        expected = _content_length(response.headers)
        if response.status != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("another part came than was asked for, from the start again")
        size = None if expected is None else have + expected
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if tag and not tag.startswith("W/") and tag.isascii() and tag.isprintable():
            validator.write_text(tag)
        else:
            validator.unlink(missing_ok=True)
        _copy(response, part, have, size)


def _content_length(headers: Message) -> int | None:
    """Returns the length, None if unknown. Proxies send the header twice, or its value: "5, 5"."""
    values = {v.strip() for text in headers.get_all("Content-Length", []) for v in text.split(",")}
    if len(values) > 1:
        raise ConnectionError(f"the server announces several lengths: {', '.join(sorted(values))}")
    text = next(iter(values), "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


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
    """Returns the file whose tag shows whether the address still serves the same content."""
    return part.with_name(f"{part.name}.tag")


def _text_of(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _unavailable(address: str, target: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"{address} cannot be downloaded: {reason}. Download it elsewhere and put it here: {target}"
    )
