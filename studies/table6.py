"""Table 6 of "Drop an Octave": our multiply-adds beside the paper's.

1 FLOP = 1 multiply-add of a convolution or linear layer, one clip of 224x224. No placement of the
octave gives the paper's number in every row (its two savings for SlowFast have the ratio 1.5, where
one placement gives 1.9), so both placements are shown with their differences.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from octvideo import create_model
from octvideo.utils.complexity import count


class PaperRow(NamedTuple):
    """A network of Table 6: ``create_model`` builds it from model, alpha and classes."""

    name: str
    model: str
    alpha: float
    gflops: float
    num_classes: int = 400


# The same network from scratch and from ImageNet is one row.
PAPER = (
    PaperRow("C2D", "c2d_r50", 0.0, 19.3),
    PaperRow("Oct-C2D", "c2d_r50", 0.1, 17.4),
    PaperRow("I3D", "i3d_r50", 0.0, 28.1),
    PaperRow("Oct-I3D", "i3d_r50", 0.1, 25.6),
    PaperRow("Oct-I3D", "i3d_r50", 0.2, 22.1),
    PaperRow("Oct-I3D", "i3d_r50", 0.5, 15.3),
    PaperRow("I3D + NL", "i3d_nln_r50", 0.0, 33.3),
    PaperRow("Oct-I3D + NL", "i3d_nln_r50", 0.1, 28.9),
    PaperRow("SlowFast 4x16", "slowfast_4x16_r50", 0.0, 27.6),
    PaperRow("Oct-SlowFast 4x16", "slowfast_4x16_r50", 0.1, 24.5),
    PaperRow("Oct-SlowFast 4x16", "slowfast_4x16_r50", 0.2, 22.9),
    PaperRow("I3D, Kinetics-600", "i3d_r50", 0.0, 28.1, 600),
    PaperRow("Oct-I3D, Kinetics-600", "i3d_r50", 0.1, 25.6, 600),
)
PLACEMENTS = ((2, 3, 4, 5), (2, 3, 4))


def table6() -> list[dict[str, Any]]:
    """Returns a row for each network of the paper's table and each placement of the octave.

    Returns:
        Rows of name, alpha, stages ([] for a vanilla network), macs, params, paper_gflops and
        difference_percent, by which our multiply-adds exceed the paper's.
    """
    return [
        _row(paper, stages)
        for paper in PAPER
        for stages in (PLACEMENTS if paper.alpha else PLACEMENTS[:1])
    ]


def _row(paper: PaperRow, stages: Sequence[int]) -> dict[str, Any]:
    with torch.device("meta"):
        model = create_model(
            paper.model, paper.num_classes, octave_alpha=paper.alpha, octave_stages=tuple(stages)
        )
    cost = count(model, (1, 3, model.spec.num_frames, 224, 224))
    return {
        "name": paper.name,
        "alpha": paper.alpha,
        "stages": list(stages) if paper.alpha else [],
        "macs": cost.macs,
        "params": cost.params,
        "paper_gflops": paper.gflops,
        "difference_percent": round(100 * (cost.macs / (paper.gflops * 1e9) - 1), 3),
    }


def format_table6(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows of ``table6`` as a table in Markdown."""
    lines = [
        "| network | alpha | octave stages | multiply-adds | paper (G) | difference | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        stages = ", ".join(f"res{stage}" for stage in row["stages"])
        lines.append(
            f"| {row['name']} | {row['alpha']:g} | {stages} | {row['macs']:,} "
            f"| {row['paper_gflops']:.1f} | {row['difference_percent']:+.1f} % "
            f"| {row['params']:,} |"
        )
    return "\n".join(lines)
