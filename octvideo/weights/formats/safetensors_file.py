"""Reads safetensors files, as timm publishes its weights: tensors under names, nothing else."""

from pathlib import Path

from torch import Tensor

from octvideo.utils.extras import install_command
from octvideo.weights.formats.files import CheckpointError, DamagedFile


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file, on the CPU.

    Raises:
        CheckpointError: the file is damaged, or the package safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a safetensors file; to read it: {install_command('safetensors')}"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedFile(
            f"{path} cannot be read, it may be truncated or damaged: {error}"
        ) from error
