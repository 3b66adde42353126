"""The complexity of a configuration's model, as a report."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TypedDict

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import input_shape
from octvideo.models import build_model
from octvideo.utils.complexity import count


class Report(TypedDict):
    """What ``complexity_of`` says of a network.

    alpha and stages are 0 and [] where OCTAVE is off; input is the shape of a batch of one.
    """

    name: str
    arch: str
    alpha: float
    stages: list[int]
    input: list[int]
    macs: int
    params: int
    activations: int
    sections: dict[str, dict[str, int]]  # macs, params and activations of each


def complexity_of(
    cfg: CfgNode, name: str, build: Callable[[CfgNode], nn.Module] = build_model
) -> Report:
    """Returns the complexity of a configuration's network for one clip at the training crop.

    ``build`` makes the network, which a study may vary.
    """
    with torch.device("meta"):
        model = build(cfg)
    shape = [1, *input_shape(cfg)]
    cost, octave = count(model, shape), cfg.OCTAVE.ENABLE
    return {
        "name": name,
        "arch": cfg.MODEL.ARCH,
        "alpha": cfg.OCTAVE.ALPHA if octave else 0.0,
        "stages": list(cfg.OCTAVE.STAGES) if octave else [],
        "input": shape,
        "macs": cost.macs,
        "params": cost.params,
        "activations": cost.activations,
        "sections": {name: asdict(section) for name, section in cost.sections.items()},
    }


def format_complexity(report: Report) -> str:
    """Returns the report of ``complexity_of`` as lines for people."""
    octave = f", alpha {report['alpha']:g} in res{report['stages']}" if report["alpha"] else ""
    lines = [
        f"{report['name']} ({report['arch']}{octave}), input {'x'.join(map(str, report['input']))}",
        f"{'':8}{'GMACs':>10}{'multiply-adds':>18}{'params (M)':>12}{'activations (M)':>17}",
    ]
    total = {key: report[key] for key in ("macs", "params", "activations")}
    for name, cost in {**report["sections"], "total": total}.items():
        lines.append(
            f"{name:8}{cost['macs'] / 1e9:10.3f}{cost['macs']:18,}"
            f"{cost['params'] / 1e6:12.3f}{cost['activations'] / 1e6:17.3f}"
        )
    return "\n".join(lines)
