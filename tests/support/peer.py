"""PyTorchVideo, the peer of some tests: imported although it asks for torchvision."""

import importlib
import sys
from types import ModuleType

import pytest


class _RoIAlign:
    """What PyTorchVideo's detection heads are built from; no test does."""


def _stand_in() -> dict[str, ModuleType]:
    """torchvision with just the two names that PyTorchVideo's models and data code import."""
    names = ("", ".ops", ".datasets", ".datasets.folder")
    modules = {f"torchvision{name}": ModuleType(f"torchvision{name}") for name in names}
    modules["torchvision.ops"].RoIAlign = _RoIAlign
    modules["torchvision.datasets.folder"].make_dataset = None
    return modules


def import_pytorchvideo(name: str) -> ModuleType:
    """The module ``pytorchvideo.{name}``; skips the test where it cannot be imported.

    torchvision may be absent, or not load beside this build of torch: then a stand-in takes its
    place while the import lasts.
    """
    try:
        importlib.import_module("torchvision")
        added = {}
    except (ImportError, RuntimeError):  # RuntimeError: its operators are for another torch
        added = _stand_in()
    sys.modules.update(added)
    try:
        return importlib.import_module(f"pytorchvideo.{name}")
    except ImportError as error:
        pytest.skip(
            f"PyTorchVideo cannot be imported ({error}): pip install --no-deps pytorchvideo==0.1.5"
        )
    finally:
        for module in added:
            sys.modules.pop(module, None)
