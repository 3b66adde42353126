"""Table 6 of the paper: our counts beside its numbers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studies.table6 import PAPER, format_table6, table6
from support import ROOT

ALL, THREE = (2, 3, 4, 5), (2, 3, 4)
# (name, alpha, stages) -> (multiply-adds, the paper's GFLOPs), from the specification
WANTED = {
    ("C2D", 0, ()): (19_493_191_680, 19.3),
    ("Oct-C2D", 0.1, ALL): (17_183_188_068, 17.4),
    ("Oct-C2D", 0.1, THREE): (17_505_927_492, 17.4),
    ("I3D", 0, ()): (28_407_660_544, 28.1),
    ("Oct-I3D", 0.1, ALL): (25_405_708_612, 25.6),
    ("Oct-I3D", 0.1, THREE): (25_780_849_924, 25.6),
    ("Oct-I3D", 0.2, ALL): (22_617_198_508, 22.1),
    ("Oct-I3D", 0.2, THREE): (23_332_983_580, 22.1),
    ("Oct-I3D", 0.5, ALL): (15_914_008_576, 15.3),
    ("Oct-I3D", 0.5, THREE): (17_444_405_248, 15.3),
    ("I3D + NL", 0, ()): (33_545_682_944, 33.3),
    ("Oct-I3D + NL", 0.1, ALL): (28_827_229_652, 28.9),
    ("Oct-I3D + NL", 0.1, THREE): (29_202_370_964, 28.9),
    ("SlowFast 4x16", 0, ()): (27_638_665_216, 27.6),
    ("Oct-SlowFast 4x16", 0.1, ALL): (24_967_760_452, 24.5),
    ("Oct-SlowFast 4x16", 0.1, THREE): (25_480_525_876, 24.5),
    ("Oct-SlowFast 4x16", 0.2, ALL): (22_484_004_988, 22.9),
    ("Oct-SlowFast 4x16", 0.2, THREE): (23_457_451_900, 22.9),
    # 200 classes more: 2048 * 200 multiply-adds more
    ("I3D, Kinetics-600", 0, ()): (28_407_660_544 + 409_600, 28.1),
    ("Oct-I3D, Kinetics-600", 0.1, ALL): (25_405_708_612 + 409_600, 25.6),
    ("Oct-I3D, Kinetics-600", 0.1, THREE): (25_780_849_924 + 409_600, 25.6),
}
PARAMS = {"C2D": 24_327_632, "I3D": 28_043_472, "SlowFast 4x16": 34_480_216}


def check(rows: list[dict[str, Any]], wanted: dict[tuple, tuple[int, float]]) -> None:
    keys = ["name", "alpha", "stages", "macs", "params", "paper_gflops", "difference_percent"]
    assert all(list(row) == keys for row in rows)
    got = {
        (row["name"], row["alpha"], tuple(row["stages"])): (row["macs"], row["paper_gflops"])
        for row in rows
    }
    assert got == wanted
    assert len(rows) == len(wanted)
    for row in rows:
        if params := PARAMS.get(row["name"].removeprefix("Oct-")):
            assert row["params"] == params
        paper = row["paper_gflops"] * 1e9
        difference = 100 * (row["macs"] - paper) / paper
        assert row["difference_percent"] == pytest.approx(difference, abs=0.0005)


def test_the_networks_of_the_paper() -> None:
    """Their counts are golden numbers, which tests/models/test_golden.py checks."""
    assert {(p.name, p.alpha, p.gflops) for p in PAPER} == {
        (name, alpha, gflops) for (name, alpha, _), (_, gflops) in WANTED.items()
    }


@pytest.mark.slow
def test_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {"C2D": 0.0, "Oct-I3D": 0.2, "Oct-I3D, Kinetics-600": 0.1}
    monkeypatch.setattr("studies.table6.PAPER", [p for p in PAPER if some.get(p.name) == p.alpha])
    rows = table6()
    check(rows, {key: value for key, value in WANTED.items() if some.get(key[0]) == key[1]})
    lines = format_table6(rows).splitlines()
    assert len(lines) == 2 + len(rows) == 7
    assert {line.count("|") for line in lines} == {8}
    row = "| Oct-I3D | 0.2 | res2, res3, res4 | 23,332,983,580 | 22.1 | +5.6 % | 28,043,472 |"
    assert row in lines


@pytest.mark.slow
def test_the_tool_prints_all_rows(tmp_path: Path) -> None:
    """Started from another folder."""
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "table6", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), WANTED)
