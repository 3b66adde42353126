"""The commands in tools/, before any of them does its work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.name != "check_install.py")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_a_tool_without_its_packages_says_what_to_type(tool: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-S", str(tool), "--help"]  # -S: no installed packages
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "fvcore" in done.stderr
    cure = done.stderr.splitlines()[-1].split()
    assert cure[0] in {"source", sys.executable}
    if cure[0] == "source":
        assert Path(cure[1]).parent == ROOT / ".venv" / "bin"
