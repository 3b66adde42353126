"""octvideo: Octave Convolution for video action recognition.

The names below are imported when they are first used, so that ``import octvideo`` is quick
and needs no optional package.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "create_model": "octvideo.models",
    "list_models": "octvideo.models",
}

_ROOMS = ("apps", "config", "data", "engine", "layers", "models", "utils")

__all__ = ["__version__", "create_model", "list_models"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return import_module(f"octvideo.{name}")
    raise AttributeError(f"module 'octvideo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})
