"""What a package index and its users get."""

import email
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support import ROOT

BUILD = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
FOLDERS = {"octvideo": "py", "tools": "py", "configs": "yaml", "docs": "md"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a source distribution, by their paths in it."""
    folder = tmp_path_factory.mktemp("sdist") / "octvideo"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name in {*FOLDERS, "tests"}:
            shutil.copytree(path, folder / path.name)
        elif path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    command = [sys.executable, "-c", BUILD]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    [archive] = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        files = [member for member in tar.getmembers() if member.isfile()]
        return {m.name.partition("/")[2]: tar.extractfile(m).read() for m in files}


def test_a_source_distribution_has_what_the_main_job_needs(sdist: dict[str, bytes]) -> None:
    wanted = ["LICENSE", "README.md", "Makefile", "constraints.txt", "setup.py"]
    for folder, ending in FOLDERS.items():
        paths = sorted((ROOT / folder).rglob(f"*.{ending}"))
        assert paths
        wanted += [str(path.relative_to(ROOT)) for path in paths]
    assert set(wanted) <= set(sdist)
    assert not [name for name in sdist if name.startswith("tests/") or "__pycache__" in name]


def test_metadata(sdist: dict[str, bytes]) -> None:
    """What `twine check --strict` asks for, and what a page of the package shows."""
    metadata = email.message_from_bytes(sdist["PKG-INFO"])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == Path(ROOT / "README.md").read_text().strip()
    assert metadata["Author"] == "octvideo contributors"
    assert "Apache-2.0" in {metadata["License"], metadata["License-Expression"]}
    assert metadata["Requires-Python"] == ">=3.10"
    assert "Programming Language :: Python :: 3.10" in metadata.get_all("Classifier")
