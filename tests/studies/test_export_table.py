"""The study of exports: its table in the documents is that of its lines."""

import json
from pathlib import Path

import pytest

import octvideo
from studies.export_table import BATCHES, NETWORKS, OWN, SIZE, difference, network_of, table
from support import ROOT

LINES = ROOT / "studies/results/export.jsonl"


def test_the_page_has_the_table_of_the_lines() -> None:
    assert table(LINES) in (ROOT / "docs/EXPORT.md").read_text()


def test_every_file_gives_the_scores_of_its_network() -> None:
    """And says what made it; no pair is there twice."""
    lines = [json.loads(text) for text in LINES.read_text().splitlines()]
    pairs = {tuple(line[k] for k in ("network", "alpha", "format", "inputs")) for line in lines}
    assert len(pairs) == len(lines)
    for line in lines:
        assert line["differences"].keys() == {str(n) for n in BATCHES}
        assert max(line["differences"].values()) < 1e-4
        assert len(line["commit"]) == 40
        assert line["command"].startswith("python -m studies.export_table")
        assert line["time"].endswith("Z")


@pytest.mark.slow
def test_the_difference_is_that_of_the_scores(tmp_path: Path) -> None:
    """A network that scores one percent higher than its file differs by one percent."""
    pytest.importorskip("onnxruntime", reason="needs octvideo[onnx]")
    model = network_of(OWN, 0.25, **NETWORKS[OWN])
    octvideo.export(model, tmp_path / "model.onnx", inputs="frames", crop_size=SIZE)
    assert difference(model, tmp_path / "model.onnx", 2) < 1e-4
    model.register_forward_hook(lambda _model, _inputs, scores: 1.01 * scores)
    assert difference(model, tmp_path / "model.onnx", 2) == pytest.approx(0.01 / 1.01, rel=0.05)


def test_a_cell_has_the_worst_difference_of_both_inputs(tmp_path: Path) -> None:
    line = {"network": "a", "options": {"depth": 14}, "alpha": 0.25, "format": "onnx",
            "inputs": "clips", "differences": {"1": 1e-6, "3": 3e-6}, "nodes": 7, "seconds": 8.4,
            "megabytes": 1.25}  # fmt: skip
    other = {**line, "inputs": "frames", "differences": {"1": 2e-6, "3": 5e-6}, "nodes": 9}
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in (line, other)))
    row = [cell.strip() for cell in table(file).splitlines()[2].split("|")[1:-1]]
    assert row == ["a depth 14", "0.25", "5e-06, 7, 8, 1.2", "not run", "not run"]
