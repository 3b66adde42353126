"""Detects changed bytes in an exported file by a SHA-256 that is stored in the file itself."""

import hashlib
from pathlib import Path

from octvideo.deploy.files import parts_of
from octvideo.utils.errors import UserError

# Holds the place of the SHA-256: a file is hashed with this text where its SHA-256 will be.
BLANK = hashlib.sha256(b"octvideo").hexdigest()


def seal(path: Path) -> None:
    """Replaces ``BLANK`` in a file by the SHA-256 of the file and the weights beside it."""
    content = path.read_bytes()
    path.write_bytes(content.replace(BLANK.encode(), _digest(path, BLANK).encode()))


def check_seal(path: Path, digest: object) -> None:
    """Raises UserError unless a file, with the weights beside it, has this SHA-256.

    digest: the one in its record; None in files of earlier versions, which are not checked.
    """
    if digest is not None and _digest(path, str(digest)) != digest:
        raise UserError(f"{path} is damaged, or has weights of another file: export it again")


def _digest(path: Path, own: str) -> str:
    digest = hashlib.sha256(path.read_bytes().replace(own.encode(), BLANK.encode()))
    for weights in parts_of(path)[1:]:
        if weights.is_file():
            digest.update(weights.read_bytes())
    return digest.hexdigest()
