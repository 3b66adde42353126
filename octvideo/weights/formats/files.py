"""Recognises a checkpoint file by its first bytes, and checks that it is the right one."""

import hashlib
from pathlib import Path

from octvideo.utils.errors import UserError

_TORCH_ZIP = b"PK\x03\x04"
# A file of torch.save before 1.6 begins with the pickle of this number.
_TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MXNET = bytes((0x12, 1)) + bytes(14)  # a list of arrays
_PICKLE = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))


class CheckpointError(UserError):
    """A checkpoint cannot be read, written or used; the message names the file."""


class DamagedFile(CheckpointError):  # noqa: N818 - as in the messages
    """A file is incomplete, or not a checkpoint at all: another copy of it may be good."""


def file_format(path: Path) -> str:
    """Returns "torch", "torch before 1.6", "safetensors", "pickle" (Caffe2), "mxnet" or "tar".

    Raises:
        CheckpointError: the file does not exist.
        DamagedFile: it is empty, or none of these.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise DamagedFile(f"{path} is empty: copy or download it again")
    if head.startswith(_TORCH_ZIP):
        return "torch"
    if head[2:].startswith(_TORCH_LEGACY):
        return "torch before 1.6"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"  # the length of a JSON header, and the header
    if head.startswith(_PICKLE):
        return "pickle"
    if head.startswith(_MXNET):
        return "mxnet"
    if head[257:262] == b"ustar":
        return "tar"
    raise DamagedFile(
        f"{path} is no checkpoint: it is neither a PyTorch file nor a Caffe2 pickle nor a "
        f"safetensors file nor one of MXNet, and begins with {head[:20]!r}"
    )


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def verify_sha256(path: Path, expected: str) -> None:
    """Raises CheckpointError unless the file's SHA-256 begins with ``expected``."""
    if len(expected) < 8:
        raise UserError(f"a SHA-256 of at least 8 hexadecimal digits is needed, got {expected!r}")
    actual = sha256_of(path)
    if not actual.startswith(expected.lower()):
        raise CheckpointError(
            f"{path} is not the file that was meant: its SHA-256 is {actual}, not {expected}; "
            "delete it and fetch it again"
        )
