"""Helpers that tests of several rooms share: paths, a model and tools here; the rest by subject."""

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from octvideo.models.build import IMAGE_MODELS, list_models

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"  # reference data and clips; absent in an ordinary checkout
VIDEO_MODELS = [name for name in list_models() if name not in IMAGE_MODELS and name[:4] != "oct_"]
# They differ from another model in little but their size: tests of every model are slow there.
_LARGE = (
    "r101",
    *("c2d_r18", "slow_r18"),
    "slow_c2d_r50",
    "slow_i3d_r50",
    "slow_4x16_r50",
    "slowfast_4x16_r50",
    "slowfast_nln_r50",
    *("x3d_xs", "x3d_s", "x3d_l"),
)
every_model = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n.endswith(_LARGE) and n != "csn_r101"))
        for n in VIDEO_MODELS
    ],
)
# The fewest channels and blocks with which a video network has all of its kinds of layers.
_NARROW_X3D = {"width_factor": 1.0, "depth_factor": 1.0, "dim_c5": 64}


def narrowed(name: str, width: int = 16) -> dict[str, Any]:
    """Returns options that make a small network of a name, or that of ``width`` channels."""
    if "x3d" in name:
        return _NARROW_X3D
    return {"width_per_group": width, **({"depth": 14} if "csn" in name else {})}


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
    """Returns the module whose ``main`` a script of tools/ runs, as `load_tool("run_net")`."""
    text = (ROOT / "tools" / f"{name}.py").read_text()
    found = re.search(r'run_(command|module)\("([\w.]+)"\)', text)
    assert found is not None
    return import_module(f"octvideo.cli.{found[2]}" if found[1] == "command" else found[2])
