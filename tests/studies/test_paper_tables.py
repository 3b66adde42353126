"""Tables 1 to 6 of the paper: our counts beside its numbers."""

import json
import subprocess
import sys
from typing import Any

import pytest

from studies import paper_tables
from studies.table6 import table6
from support import ROOT

# Section 5 of the specification: (model, alpha, size) -> (G multiply-adds, the paper's)
WANTED = {
    2: {
        ("resnet50_v2", 0.0, 224): (4.089, 4.1),
        ("resnet50_v2", 0.125, 224): (3.565, 3.6),
        ("resnet50_v2", 0.25, 224): (3.104, 3.1),
        ("resnet50_v2", 0.5, 224): (2.367, 2.4),
        ("resnet50_v2", 0.75, 224): (1.880, 1.9),
    },
    3: {
        ("mobilenet_v1_075", 0.0, 224): (0.3254, None),
        ("mobilenet_v1_075", 0.375, 224): (0.2114, 0.213),
        ("mobilenet_v1_100", 0.5, 224): (0.3182, 0.321),
        ("mobilenet_v2_100", 0.375, 224): (0.2540, 0.256),
        ("mobilenet_v2_1125", 0.5, 224): (0.2928, 0.295),
    },
    4: {
        ("resnet26_v2", 0.25, 224): (1.858, 1.9),
        ("glore_resnet50", 0.0, 224): (5.162, 5.2),
        ("glore_resnet50", 0.5, 224): (3.151, 3.1),
        ("resnext50_32x4d", 0.25, 224): (3.171, 3.2),
        ("resnext101_32x4d", 0.5, 224): (4.023, 4.0),
    },
    5: {
        ("resnet152_v1f", 0.125, 224): (10.82, 10.9),
        ("resnet152_v1f", 0.125, 320): (22.08, 22.2),
        ("se_resnet152_v1e", 0.125, 320): (22.11, 22.2),
    },
}


def run(*options: str) -> Any:
    command = [sys.executable, ROOT / "tools" / "benchmark.py", "tables", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_table_1_is_the_formula() -> None:
    """The paper prints 100, 82, 67, 44, 30, 26 % and 100, 91, 81, 63, 44, 34(.4) %."""
    rows = paper_tables.paper_tables([1])
    assert [int(100 * row["cost"] + 0.5) for row in rows] == [100, 82, 67, 44, 30, 26]
    for row in rows:
        assert row["cost"] == pytest.approx(row["paper_cost"], abs=1e-4)
        assert row["memory"] == pytest.approx(row["paper_memory"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_tables_2_to_4() -> None:
    check(run("--table", "2", "3", "4"), (2, 3, 4))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_table_5() -> None:
    check(paper_tables.paper_tables([5]), (5,))


def check(rows: list[dict[str, Any]], numbers: tuple[int, ...]) -> None:
    assert tuple(dict.fromkeys(row["table"] for row in rows)) == numbers
    found = {(r["table"], r["model"], r["alpha"], r["size"]): r for r in rows}
    for number in numbers:
        for key, (gmacs, paper) in WANTED[number].items():
            row = found[(number, *key)]
            assert row["macs"] / 1e9 == pytest.approx(gmacs, abs=0.0051 if number == 5 else 0.001)
            assert row["paper_gmacs"] == paper
            if paper is not None:  # rounded to a tenth there
                assert row["difference_percent"] == pytest.approx(
                    100 * (row["macs"] / 1e9 / paper - 1), abs=0.001
                )
                assert abs(row["difference_percent"]) < 2.5
            if row["paper_mparams"] is not None:
                assert row["params"] / 1e6 == pytest.approx(row["paper_mparams"], abs=0.051)


def test_table_6_is_that_of_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper_tables.table6 is table6
    monkeypatch.setattr(paper_tables, "table6", lambda: [{"name": "I3D"}])
    assert paper_tables.paper_tables([6]) == [{"table": 6, "name": "I3D"}]


@pytest.mark.slow
def test_times_of_table_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the benchmark says that alpha .25 is twice as fast, it takes half the time."""
    asked = {}

    def benchmark(models: Any, alphas: Any, variants: Any, rounds: int, **options: Any) -> Any:
        asked.update(models=models, alphas=alphas, variants=variants, rounds=rounds, **options)
        common = {"spread_ms": 1.0, "theoretical": 1.25}
        speedups = (1.0, 1.0, 2.0, 2.5, 4.0)
        return [
            {"alpha": alpha, "median_ms": 100 / s, "realised": s / 1.25, **common}
            for alpha, s in zip(alphas, speedups, strict=True)
        ]

    monkeypatch.setattr(paper_tables, "benchmark_models", benchmark)
    rows = paper_tables.paper_tables([2], rounds=3)
    assert asked["models"] == ["resnet50_v2"]
    assert (asked["rounds"], asked["threads"]) == (3, 1)
    assert [row["relative_time"] for row in rows] == [1.0, 1.0, 0.5, 0.4, 0.25]
    assert [row["median_ms"] for row in rows] == [100, 100, 50, 40, 25]
    assert [row["paper_relative_time"] for row in rows] == [1.0, 1.009, 0.861, 0.643, 0.53]
    text = paper_tables.format_paper_tables(rows)
    assert "| resnet50_v2 | 0.25 | 224 |" in text
    assert "| 50.0 | 1.0 | 0.500 | 99 | 0.861 |" in text
    without = paper_tables.paper_tables([2])
    assert all(row["median_ms"] is None and row["relative_time"] is None for row in without)


def test_a_missing_figure_of_the_paper_is_an_empty_cell() -> None:
    row = {"table": 3, "model": "m", "alpha": 0.0, "size": 224, "macs": 1_234, "params": 56,
           "paper_gmacs": None, "paper_mparams": 2.6, "difference_percent": None}  # fmt: skip
    table = paper_tables.format_paper_tables([row]).partition("\n\n")[2].splitlines()
    heads, _, cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    found = dict(zip(heads, cells, strict=True))
    assert found["multiply-adds"] == "1,234"
    assert found["paper (G)"] == found["difference"] == ""
    assert found["paper (M)"] == "2.6"


def test_no_such_table() -> None:
    with pytest.raises(ValueError, match="7"):
        paper_tables.paper_tables([7])
