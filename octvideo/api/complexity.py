"""The complexity of a configuration's model, as a report."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import input_shape
from octvideo.models import build_model
from octvideo.utils.complexity import count


def complexity_of(
    cfg: CfgNode, name: str, build: Callable[[CfgNode], nn.Module] = build_model
) -> dict[str, Any]:
    """Returns the complexity of a configuration's network for one clip at the training crop.

    ``build`` makes the network, which a study may vary.

    Returns:
        name, arch, alpha and stages (0 and [] where OCTAVE is off), input (the shape of a batch of
        one), macs, params, activations, and sections (name -> macs, params, activations).
    """
    with torch.device("meta"):
        model = build(cfg)
    shape = [1, *input_shape(cfg)]
    octave = cfg.OCTAVE.ENABLE
    return {
        "name": name,
        "arch": cfg.MODEL.ARCH,
        "alpha": cfg.OCTAVE.ALPHA if octave else 0.0,
        "stages": list(cfg.OCTAVE.STAGES) if octave else [],
        "input": shape,
        **asdict(count(model, shape)),
    }


def format_complexity(report: dict[str, Any]) -> str:
    """Returns the report of ``complexity_of`` as lines for people."""
    octave = f", alpha {report['alpha']:g} in res{report['stages']}" if report["alpha"] else ""
    lines = [
        f"{report['name']} ({report['arch']}{octave}), input {'x'.join(map(str, report['input']))}",
        f"{'':8}{'GMACs':>10}{'multiply-adds':>18}{'params (M)':>12}{'activations (M)':>17}",
    ]
    for name, cost in {**report["sections"], "total": report}.items():
        lines.append(
            f"{name:8}{cost['macs'] / 1e9:10.3f}{cost['macs']:18,}"
            f"{cost['params'] / 1e6:12.3f}{cost['activations'] / 1e6:17.3f}"
        )
    return "\n".join(lines)
