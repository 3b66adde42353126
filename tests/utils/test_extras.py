"""What is said where an optional package is missing."""

import sys
from pathlib import Path

import pytest

from octvideo.utils.extras import install_command

METADATA = """Metadata-Version: 2.4
Name: octvideo
Version: 0.1.0
Provides-Extra: decord
Provides-Extra: dev
Requires-Dist: torch>=2.4
Requires-Dist: decord==0.6.0; platform_machine == "x86_64" and extra == "decord"
Requires-Dist: pytest>=8; extra == "dev"
Requires-Dist: ruff>=0.6; extra == 'dev'
"""


def test_the_packages_of_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "octvideo-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert install_command("decord") == 'pip install "decord==0.6.0"'
    assert install_command("dev") == 'pip install "pytest>=8" "ruff>=0.6"'


def test_without_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert install_command("decord") == 'pip install -e ".[decord]" in the folder of octvideo'
