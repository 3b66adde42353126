"""The study of conversions: its table in the documents is that of its lines."""

import json
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from studies.conversion import Task, convert, table
from support import ROOT

LINES = ROOT / "studies/results/conversion.jsonl"


def test_the_page_has_the_table_of_the_lines() -> None:
    assert table(LINES) in (ROOT / "docs/OCTAVIZE.md").read_text()


def test_every_line_says_what_made_it() -> None:
    for text in LINES.read_text().splitlines():
        line = json.loads(text)
        assert len(line["commit"]) == 40
        assert line["command"].startswith("python -m studies.conversion")
        assert line["time"].endswith("Z")
        assert isinstance(line["seed"], int)
        assert "/tmp" not in text


def test_a_row_is_the_mean_over_seeds(tmp_path: Path) -> None:
    lines = [json.loads(text) for text in LINES.read_text().splitlines()]
    some = [
        line
        for line in lines
        if (line["network"], line["alpha"], line["choose"]) == ("synthetic/I3D", 0.5, "smooth")
    ]
    assert len(some) >= 3
    file = tmp_path / "some.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in some))
    row = [cell.strip() for cell in table(file).splitlines()[2].split("|")[1:-1]]
    assert row[1:5] == [str(len(some)), "0.5", f"{some[0]['macs']:.3f}", "smooth"]
    scores = [line["scores"]["refit"] for line in some]
    assert row[8] == f"{mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})"


def test_a_conversion_is_measured_after_each_step() -> None:
    """The vanilla network agrees with itself; the others are somewhere below."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)]
    layers += [nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    batches = [torch.randn(4, 3, 32, 32) for _ in range(2)]

    def agreement(network: nn.Module) -> float:
        def answers(net: nn.Module) -> Tensor:
            with torch.no_grad():
                return net(batches[0]).argmax(1)

        return 100 * (answers(network) == answers(model)).float().mean().item()

    task = Task("toy", 3, model, batches, agreement, "agreement")
    line = convert(task, 0.5, "first", [2], 2)
    assert line["macs"] < 1
    assert [*line["scores"]] == ["vanilla", "converted", "calibrated", "refit", "distilled 2"]
    assert line["scores"]["vanilla"] == 100
