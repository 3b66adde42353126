"""Tables 1 to 6 of "Drop an Octave": our multiply-adds, parameters and times beside the paper's.

1 FLOP = 1 multiply-add of a convolution or linear layer, one image of 224x224 (or of the size
that a row names), octave in res2..res4. The paper's figures come from the paper or the authors'
repository; if neither has one, the column stays empty.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from octvideo import create_model
from octvideo.api.benchmark import benchmark_models
from octvideo.layers import OctConv2d
from octvideo.utils.complexity import count
from octvideo.utils.markdown import markdown_table
from studies.table6 import format_table6, table6

Row = dict[str, Any]
TITLES = {
    1: "relative cost and memory of an octave convolution",
    2: "ResNet-50, ImageNet",
    3: "small networks, ImageNet",
    4: "medium networks, ImageNet",
    5: "large networks, ImageNet",
    6: "video networks, Kinetics",
}


class Paper(NamedTuple):
    """A network and the paper's figures for it: G multiply-adds, million parameters, ms."""

    model: str
    alpha: float
    gmacs: float | None = None
    mparams: float | None = None
    size: int = 224
    ms: float | None = None


TABLE_2 = (  # times: of one thread of a CPU, compiled by TVM
    Paper("resnet50_v2", 0.0, 4.1, ms=115),
    Paper("resnet50_v2", 0.125, 3.6, ms=116),
    Paper("resnet50_v2", 0.25, 3.1, ms=99),
    Paper("resnet50_v2", 0.5, 2.4, ms=74),
    Paper("resnet50_v2", 0.75, 1.9, ms=61),
)
NETWORKS = {
    2: TABLE_2,
    3: (
        Paper("mobilenet_v1_075", 0.0),
        Paper("mobilenet_v1_075", 0.375, 0.213, 2.6),
        Paper("mobilenet_v1_100", 0.5, 0.321, 4.2),
        Paper("mobilenet_v2_100", 0.0),
        Paper("mobilenet_v2_100", 0.375, 0.256, 3.5),
        Paper("mobilenet_v2_1125", 0.5, 0.295, 4.2),
    ),
    4: (
        Paper("resnet26_v2", 0.25, 1.9, 16.0),
        Paper("resnet50_v2", 0.5, 2.4),
        Paper("glore_resnet50", 0.0, 5.2),
        Paper("glore_resnet50", 0.5, 3.1),
        Paper("resnext50_32x4d", 0.25, 3.2),
        Paper("resnext50_32x4d", 0.5, 2.4),
        Paper("resnext101_32x4d", 0.25, 5.7),
        Paper("resnext101_32x4d", 0.5, 4.0),
    ),
    5: (
        Paper("resnet152_v1f", 0.125, 10.9, 60.2),
        Paper("resnet152_v1f", 0.125, 22.2, 60.2, 320),
        Paper("se_resnet152_v1e", 0.125, 10.9, 66.8),
        Paper("se_resnet152_v1e", 0.125, 22.2, 66.8, 320),
    ),
}
ALPHAS = (0.0, 0.125, 0.25, 0.5, 0.75, 0.875)  # of Table 1; 1.0 leaves no high channels


def paper_tables(
    numbers: Sequence[int] = tuple(TITLES), rounds: int | None = None, threads: int = 1
) -> list[Row]:
    """Returns the rows of these tables, each with its ``table``.

    Args:
        numbers: of 1..6.
        rounds: how often Table 2's times are measured, in one interleaved run; None: no times.
        threads: CPU threads of that measurement; the paper uses one.

    Returns:
        Table 1: alpha, cost and memory (counted for a 3x3 layer, relative to the vanilla one),
        paper_cost and paper_memory (its formulas). Tables 2 to 5: model, alpha, size, macs,
        params, paper_gmacs, paper_mparams, difference_percent (None if the paper has no
        figure); Table 2 also median_ms, spread_ms, relative_time (None without a measurement),
        paper_ms, paper_relative_time, both relative to alpha 0. Table 6: see ``table6``.

    Raises:
        ValueError: no such table.
    """
    rows: list[Row] = []
    for number in numbers:
        if number not in TITLES:
            raise ValueError(f"the paper has the tables 1 to 6, not {number}")
        if number == 1:
            rows += [{"table": 1, **row} for row in _table1()]
        elif number == 6:
            rows += [{"table": 6, **row} for row in table6()]
        else:
            rows += [{"table": number, **_row(paper)} for paper in NETWORKS[number]]
        if number == 2:
            _add_times(rows[-len(TABLE_2) :], rounds, threads)
    return rows


def _table1() -> list[Row]:
    """Returns the rows of a 3x3 convolution of 256 channels on 56x56 pixels."""
    costs = []
    for alpha in ALPHAS:
        with torch.device("meta"):
            layer = OctConv2d(256, 256, 3, padding=1, bias=False, alpha_in=alpha, alpha_out=alpha)
        costs.append(count(_OfOneMap(layer), (1, 256, 56, 56)))
    return [
        {
            "alpha": alpha,
            "cost": round(cost.macs / costs[0].macs, 4),
            "memory": round(cost.activations / costs[0].activations, 4),
            "paper_cost": round(1 - 0.75 * alpha * (2 - alpha), 4),
            "paper_memory": round(1 - 0.75 * alpha, 4),
        }
        for alpha, cost in zip(ALPHAS, costs, strict=True)
    ]


class _OfOneMap(torch.nn.Module):
    """Runs a layer on one map (N, C, H, W), whose first channels at half the size become L."""

    def __init__(self, layer: OctConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> Any:
        low = self.layer.channels_in.low
        return self.layer((x[:, low:], x[:, :low, ::2, ::2]) if low else x)


def _row(paper: Paper) -> Row:
    with torch.device("meta"):
        model = create_model(paper.model, octave_alpha=paper.alpha)
    cost = count(model, (1, 3, paper.size, paper.size))
    difference = None if paper.gmacs is None else 100 * (cost.macs / (paper.gmacs * 1e9) - 1)
    return {
        "model": paper.model,
        "alpha": paper.alpha,
        "size": paper.size,
        "macs": cost.macs,
        "params": cost.params,
        "paper_gmacs": paper.gmacs,
        "paper_mparams": paper.mparams,
        "difference_percent": None if difference is None else round(difference, 3),
    }


def _add_times(rows: Sequence[Row], rounds: int | None, threads: int) -> None:
    """Adds times to the rows of Table 2, whose first is the vanilla network."""
    measured: dict[float, Row] = {}
    if rounds is not None:
        alphas = [paper.alpha for paper in TABLE_2]
        times = benchmark_models(["resnet50_v2"], alphas, ["ours"], rounds, threads=threads)
        measured = {row["alpha"]: row for row in times}
    for row, paper in zip(rows, TABLE_2, strict=True):
        time = measured.get(paper.alpha)
        row["median_ms"] = time and time["median_ms"]
        row["spread_ms"] = time and time["spread_ms"]
        # The speed-up is a median of ratios within a round.
        row["relative_time"] = time and round(1 / (time["realised"] * time["theoretical"]), 3)
        row["paper_ms"] = paper.ms
        row["paper_relative_time"] = round(paper.ms / TABLE_2[0].ms, 3)


# ------------------------------------------------------------------------------- Markdown

_COUNTS = ("model", "alpha", "size", "multiply-adds", "paper (G)", "difference", "parameters",
           "paper (M)")  # fmt: skip
_TIMES = ("ms", "spread", "time / alpha 0", "paper (ms)", "paper's / alpha 0")


def format_paper_tables(rows: Sequence[Row]) -> str:
    """Returns the rows of ``paper_tables`` as tables in Markdown, each with a title."""
    texts = []
    for number in dict.fromkeys(row["table"] for row in rows):
        of_table = [row for row in rows if row["table"] == number]
        texts.append(f"### Table {number}: {TITLES[number]}\n\n{_format(number, of_table)}")
    return "\n\n".join(texts)


def _format(number: int, rows: Sequence[Row]) -> str:
    if number == 6:
        return format_table6(rows)
    if number == 1:
        keys = ("alpha", "cost", "paper_cost", "memory", "paper_memory")
        names = ("alpha", "multiply-adds", "paper", "memory", "paper")
        return markdown_table(names, ([f"{row[key]:g}" for key in keys] for row in rows))
    names = _COUNTS + (_TIMES if number == 2 else ())
    cells = (_counts(row) + (_times(row) if number == 2 else []) for row in rows)
    return markdown_table(names, cells)


def _counts(row: Row) -> list[str]:
    return [
        row["model"],
        f"{row['alpha']:g}",
        str(row["size"]),
        f"{row['macs']:,}",
        _number(row["paper_gmacs"], "g"),
        _number(row["difference_percent"], "+.1f", " %"),
        f"{row['params']:,}",
        _number(row["paper_mparams"], ".1f"),
    ]


def _times(row: Row) -> list[str]:
    return [
        _number(row["median_ms"], ".1f"),
        _number(row["spread_ms"], ".1f"),
        _number(row["relative_time"], ".3f"),
        _number(row["paper_ms"], ".0f"),
        _number(row["paper_relative_time"], ".3f"),
    ]


def _number(value: float | None, style: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{style}}{unit}"
