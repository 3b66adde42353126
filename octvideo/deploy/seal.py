"""Notices a changed byte of an exported file, by a SHA-256 that stands in the file itself."""

import hashlib
from pathlib import Path

from octvideo.deploy.files import parts_of
from octvideo.utils.errors import UserError

# Stands where the SHA-256 will be; what is hashed has it there.
BLANK = hashlib.sha256(b"octvideo").hexdigest()


def seal(path: Path) -> None:
    """Puts the SHA-256 of a file, with the weights beside it, in the place of ``BLANK``."""
    content = path.read_bytes()
    path.write_bytes(content.replace(BLANK.encode(), _digest(path, BLANK).encode()))


def check_seal(path: Path, digest: object) -> None:
    """Raises UserError unless a file, with the weights beside it, has this SHA-256.

    digest: as its record has it; None: it has none, as files of earlier versions.
    """
    if digest is not None and _digest(path, str(digest)) != digest:
        raise UserError(f"{path} is damaged, or has weights of another file: export it again")


def _digest(path: Path, own: str) -> str:
    digest = hashlib.sha256(path.read_bytes().replace(own.encode(), BLANK.encode()))
    for weights in parts_of(path)[1:]:
        if weights.is_file():
            digest.update(weights.read_bytes())
    return digest.hexdigest()
