"""The examples in other languages are built and run, and print what Python prints."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import octvideo
from support import ROOT

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def case(small, tmp_path_factory):
    """A folder with an exported network and raw frames, and what Python says of them."""
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs octvideo[onnx]")
    folder = tmp_path_factory.mktemp("examples")
    model = octvideo.load(small.checkpoint, cfg=small.cfg)
    model.class_names = ["left", "right", 'a "quoted"', "näh", "动作", "b, c", "up", "down"]
    octvideo.export(model, folder / "model.onnx", inputs="frames")
    words = [small.videos[0], folder / "model.onnx", folder / "frames.raw"]
    subprocess.run(
        [sys.executable, EXAMPLES / "frames.py", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=120,
    )
    return folder, octvideo.predict(small.videos[0], folder / "model.onnx", topk=3)


def check(program: list[str | Path], case) -> None:
    folder, expected = case

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [*map(str, program), *map(str, words)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)

    done = run("model.onnx", "frames.raw", 3)
    assert done.returncode == 0, done.stderr
    scores = [score for _, score in expected]
    rows = [line.partition("  ") for line in done.stdout.splitlines()]
    assert [name for _, _, name in rows] == [name for name, _ in expected]
    assert [float(score) for score, _, _ in rows] == pytest.approx(scores, abs=1e-4)
    for words in ((), ("model.onnx", "model.onnx"), ("frames.raw", "frames.raw")):
        done = run(*words)
        assert done.returncode == 2
        assert done.stderr
        assert not done.stdout


def header() -> Path:
    """The folder of ONNX Runtime's headers; the test is skipped where there are none."""
    places = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime"]
    for place in map(Path, filter(None, places)):
        if (place / "onnxruntime_cxx_api.h").is_file():
            return place
    pytest.skip("needs ONNX Runtime's headers (ONNXRUNTIME_INCLUDE, libonnxruntime-dev)")


def test_cpp(case) -> None:
    compiler = shutil.which("g++") or pytest.skip("needs g++")
    include = header()
    if not Path("/usr/include/nlohmann/json.hpp").is_file():
        pytest.skip("needs nlohmann-json3-dev")
    folder, _ = case
    wheel = Path(import_module("onnxruntime").__file__).parent / "capi"
    libraries = [*wheel.glob("libonnxruntime.so.1.*")]
    if not libraries:
        pytest.skip("the package onnxruntime has no library to link with before 1.31")
    library = folder / "libonnxruntime.so.1"
    library.symlink_to(libraries[0])
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    subprocess.run(
        [compiler, *options, EXAMPLES / "cpp/predict.cpp", library, "-o", folder / "predict",
         f"-Wl,-rpath,{folder}"],
        check=True,
        timeout=300,
    )  # fmt: skip
    check([folder / "predict"], case)


def test_javascript(case) -> None:
    node = shutil.which("node") or pytest.skip("needs node")
    if not (EXAMPLES / "javascript/node_modules/onnxruntime-node").is_dir():
        pytest.skip("needs onnxruntime-node: npm install --prefix examples/javascript")
    check([node, EXAMPLES / "javascript/predict.js"], case)
