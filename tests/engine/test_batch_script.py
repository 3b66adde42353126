"""tools/slurm/train.sbatch, with stand-ins for the commands of SLURM."""

import os
import shutil
import subprocess

import pytest

from support import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@pytest.mark.parametrize(
    ("status", "is_requeued"),
    [(0, False), (75, True), (138, True), (1, False), (2, False), (137, False), (143, False)],
)
def test_what_has_saved_or_had_nothing_to_save_is_requeued(tmp_path, status, is_requeued):
    """138: a process was ended by SIGUSR1, before Python could take it."""
    commands = {"srun": f"exit {status}", "scontrol": 'echo "scontrol $*"', "sleep": ":"}
    for name, text in commands.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    script = ["bash", ROOT / "tools/slurm/train.sbatch", "--cfg", "a.yaml"]
    run = subprocess.run(script, env=environ, capture_output=True, text=True, timeout=30)
    assert run.returncode == status
    assert ("scontrol requeue 7" in run.stdout) == is_requeued
