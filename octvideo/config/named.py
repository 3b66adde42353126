"""Configurations that are found by name: the files in configs/, also inside the wheel."""

import os
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# In an installed package, and in a clone.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def find_config(name: str | os.PathLike[str]) -> Path:
    """Returns the file of a configuration.

    ``name`` is a path, or the name of a configuration that comes with octvideo, with or without
    .yaml: Kinetics/OCT_I3D_8x8. Where there is neither, the path is returned as it is.
    """
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path
    within = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    files = (folder / f"{within}{end}" for folder in _FOLDERS for end in ("", ".yaml"))
    return next((file for file in files if file.is_file()), path)


def list_configs() -> Iterator[str]:
    """Yields the names of all configurations that come with octvideo, in alphabetical order."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    if folder is not None:
        for file in sorted(folder.glob("*/*.yaml")):
            yield str(file.relative_to(folder).with_suffix(""))
