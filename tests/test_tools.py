"""The commands in tools/, before any of them does its work."""

import os
import signal
import subprocess
import sys
import time
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
    assert cure[0] in {"source", "cd"}
    if cure[0] == "source":
        assert Path(cure[1]).parent == ROOT / ".venv" / "bin"


@pytest.mark.parametrize("way", ["plain", "turned into an ImportError"])
def test_an_early_interrupt_leaves_no_traceback(tmp_path, way):
    """While torch is being imported, for which a package that waits stands here."""
    wait = f"open({str(tmp_path / 'there')!r}, 'w').close(); time.sleep(60)"
    if way != "plain":
        wait = f"\ntry: {wait}\nexcept BaseException: raise ImportError('half done')"
    (tmp_path / "torch.py").write_text(f"import time; {wait}")
    command = [sys.executable, ROOT / "tools/make_synthetic.py", "--out", tmp_path / "set"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (tmp_path / "there").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert len(output.splitlines()) == 1
