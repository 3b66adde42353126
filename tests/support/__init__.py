"""Helpers that tests of several rooms share: paths, a model and tools here; the rest by subject."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

from octvideo.models.build import IMAGE_MODELS, list_models

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"  # reference data and clips; absent in an ordinary checkout
VIDEO_MODELS = [name for name in list_models() if name not in IMAGE_MODELS]


def liven(model: torch.nn.Module) -> torch.nn.Module:
    """Random batch-norm statistics and a wide last layer, so that every class has its score."""
    generator = torch.Generator().manual_seed(5)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.2, generator=generator)
    torch.nn.init.normal_(model.head.projection.weight, std=0.5, generator=generator)
    return model.eval()


def load_tool(name: str) -> ModuleType:
    """The module of a command of tools/, as `load_tool("predict")`."""
    if (folder := str(ROOT / "tools")) not in sys.path:
        sys.path.insert(0, folder)  # where a tool finds its neighbours
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
