"""What a package index and its users get."""

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from site import getsitepackages as site_packages

import pytest

from octvideo.cli.main import COMMANDS
from support import ROOT

BUILD = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
FOLDERS = {"octvideo": "py", "tools": "py", "studies": "py", "configs": "yaml", "docs": "md"}


def copy_of_clone(folder: Path) -> Path:
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name in {*FOLDERS, "tests"}:
            shutil.copytree(path, folder / path.name)
        elif path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a source distribution, by their paths in it."""
    folder = copy_of_clone(tmp_path_factory.mktemp("sdist") / "octvideo")
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


def test_an_import_warns_of_nothing() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", "import octvideo"], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = copy_of_clone(folder / "clone")
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, clone]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    site = next((folder / "venv/lib").glob("python*/site-packages"))
    own = [path for path in site_packages() if not (Path(path) / "octvideo").is_dir()]
    (site / "dependencies.pth").write_text("\n".join(own))
    install = [*pip, "--python", folder / "venv/bin/python", "install", "--no-deps", "--no-index"]
    subprocess.run([*install, wheel], check=True, capture_output=True, timeout=300)
    shutil.rmtree(clone)
    return folder / "venv/bin"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_outside_a_clone(installed: Path, tmp_path: Path) -> None:
    """Every command helps; a run by the name of its configuration trains, tests and predicts."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*words: object) -> str:
        done = subprocess.run(
            [str(installed / words[0]), *map(str, words[1:])],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    where = run("python", "-c", "import octvideo; print(octvideo.__file__)")
    assert installed.parent in Path(where.strip()).parents
    for command in COMMANDS:
        assert f"usage: octvideo {command}" in run("octvideo", command, "--help")
    assert len(run("octvideo", "config").split()) == len(list(ROOT.glob("configs/*/*.yaml")))
    run(
        "octvideo",
        "synthetic",
        *["--out", "data/synthetic", "--train", "24", "--val", "8", "--test", "8"],
    )
    options = "SOLVER.MAX_EPOCH 1 SOLVER.WARMUP_EPOCHS 0 TEST.NUM_ENSEMBLE_VIEWS 1 OUTPUT_DIR out"
    run("octvideo", "run", "--cfg", "Synthetic/OCT_I3D", "--opts", *options.split())
    clip = next((tmp_path / "data/synthetic/test").rglob("*.mp4"))
    said = run("octvideo", "predict", "--checkpoint", "out", "--json", "--topk", 1, clip)
    code = f"import octvideo; print(octvideo.predict({str(clip)!r}, octvideo.load('out'))[0][0])"
    assert run("python", "-c", code).strip() == json.loads(said)["scores"][0][0]
