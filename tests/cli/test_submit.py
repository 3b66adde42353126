"""tools/submit.py, but for what needs a cluster (see tests/engine/test_slurm.py)."""

import argparse
import re
import subprocess
import sys

import pytest

from octvideo.cli.submit import main, minutes, parse_args
from support import ROOT

CFG = str(ROOT / "configs/Synthetic/OCT_I3D.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90:30", 91),
        ("12:00:00", 720),
        ("2-00", 2880),
        ("1-02:03", 1563),
        ("1-02:03:04", 1564),
    ],
)
def test_times_of_slurm(text: str, expected: int):
    assert minutes(text) == expected


def test_a_time_that_is_none():
    with pytest.raises(argparse.ArgumentTypeError, match="'soon' is no time such as"):
        minutes("soon")


def test_the_options_of_the_run_are_passed_on():
    args, words = parse_args(["--nodes", "4", "--time", "1:00:00", "--cfg", CFG, "NUM_GPUS", "0"])
    assert (args.nodes, args.gpus_per_node, args.time) == (4, 8, 60)
    assert words == ["--cfg", CFG, "NUM_GPUS", "0"]


def test_a_mistake_in_the_configuration_is_told_before_the_queue(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["submit.py", "--cfg", CFG, "TRAIN.BATCH_SIZ", "4"])
    assert main() == 2
    assert "did you mean TRAIN.BATCH_SIZE" in capsys.readouterr().err


def test_submitit_is_an_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    monkeypatch.setattr(sys, "argv", ["submit.py", "--cfg", CFG])
    assert main() == 2
    said = capsys.readouterr().err
    assert re.match(r"error: submitit is not installed: pip install .*(submitit|\[slurm\])", said)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_local_job_tells_how_it_ended(tmp_path):
    pytest.importorskip("submitit")
    opts = ["OUTPUT_DIR", str(tmp_path), "DATA.PATH_TO_DATA_DIR", "/nowhere"]
    command = [sys.executable, ROOT / "tools/submit.py", "--local", "--cfg", CFG, "--opts", *opts]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert run.returncode == 1
    [log] = (tmp_path / "submit").glob("*_0_log.err")
    assert "there is no list of videos /nowhere/train.csv" in log.read_text()
