"""docs/EVIDENCE.md: its tables are those of the lines in studies/results."""

import math
import re
from pathlib import Path

import pytest

from studies import kinetics_cost
from studies.accuracy_cost import bits, read_lines, report, table
from support import ROOT

PAGE = ROOT / "docs/EVIDENCE.md"
FILES = sorted((ROOT / "studies/results").glob("accuracy_*.jsonl"))


def test_every_file_of_lines_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert FILES
    assert set(re.findall(r"studies/results/(accuracy_\w+\.jsonl)", text)) == {
        path.name for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_has_the_table_of_the_lines(path: Path) -> None:
    assert table(report(read_lines(path))) in PAGE.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_says_what_made_it(path: Path) -> None:
    made = set()
    for line in read_lines(path):
        assert re.fullmatch(r"[0-9a-f]{7,40}", line["commit"])  # and not "-dirty"
        assert re.fullmatch(r"[\d-]{10}T[\d:]{8}Z", line["time"])
        if "seed" in line:
            assert f"RNG_SEED {line['seed']} " in line["command"]
            assert "/tmp" not in line["command"]
            assert math.isclose(100 * bits(line).mean(), line["test_top1"], abs_tol=0.005)
            made.add((line["network"], line["seed"]))
    assert len(made) == sum("seed" in line for line in read_lines(path))  # one run of each


@pytest.mark.slow
def test_the_page_has_the_costs_of_kinetics() -> None:
    assert kinetics_cost.table(10.0) in PAGE.read_text()
