"""The command ``octvideo``: its subcommands, and configurations that are found by name."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

import octvideo
from octvideo.cli import convert, features, predict
from octvideo.cli.main import COMMANDS, main
from octvideo.cli.run import parse_args
from octvideo.config import ConfigError, find_config, list_configs, load_cfg
from octvideo.weights import KINDS
from support import ROOT


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "octvideo", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_torch(command: str, tmp_path: Path) -> None:
    """So it comes at once: importing torch alone takes longer than all else together."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    words = [sys.executable, "-m", "octvideo", *command.split(), "--help"]
    start = time.process_time()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: octvideo {command}".strip())
    assert time.process_time() - start < 2
    described = all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert described == (not command)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == ["octvideo", octvideo.__version__]


@pytest.mark.parametrize("words", [["train"], [], ["run"], ["run", "--cfg", "TRAIN.ENABLE"]])
def test_usage_errors_have_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


@pytest.mark.parametrize("words", ["config", "config --keys", "zoo --all"])
def test_who_reads_the_output_may_stop(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "octvideo", *words.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", [predict, features])
def test_too_little_memory_is_a_message(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(command, "run", run)
    words = ["a.mp4", "--model", "x"] + (["--out", "y"] if command is features else [])
    assert command.main(words) == 2
    assert "lower --batch-size, 8" in capsys.readouterr().err


def test_kinds_of_checkpoints_are_those_of_weights() -> None:
    assert convert.KINDS == KINDS


# Configurations by name


@pytest.mark.parametrize(
    "name",
    [
        "Kinetics/OCT_I3D_8x8_A0.2",
        "Kinetics/OCT_I3D_8x8_A0.2.yaml",
        "configs/Kinetics/OCT_I3D_8x8_A0.2.yaml",
    ],
)
def test_a_configuration_is_found_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs/Kinetics/OCT_I3D_8x8_A0.2.yaml"
    assert find_config(name) == path
    assert load_cfg(name) == load_cfg(path)
    (tmp_path / "own.yaml").write_text(f"_BASE_: {name}\nNUM_GPUS: 0\n")
    assert load_cfg("own.yaml").OCTAVE.ALPHA == 0.2


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Kinetics").mkdir()
    (tmp_path / "Kinetics/OCT_I3D_8x8.yaml").write_text("NUM_GPUS: 2\n")
    assert load_cfg("Kinetics/OCT_I3D_8x8.yaml").NUM_GPUS == 2


def test_a_name_that_is_almost_right() -> None:
    with pytest.raises(ConfigError, match=r"did you mean Kinetics/OCT_I3D_8x8\?"):
        load_cfg("Kinetic/OCT_I3D_8x8")


def test_every_name_can_be_loaded() -> None:
    names = list(list_configs())
    assert len(names) == len(list((ROOT / "configs").glob("*/*.yaml")))
    assert all(find_config(name).is_file() for name in names)


def test_names_and_options_of_a_run() -> None:
    words = "--cfg Kinetics/OCT_I3D_8x8 b.yaml OUTPUT_DIR=runs/a TRAIN.BATCH_SIZE 8 --opts X 1"
    args = parse_args(words.split())
    assert args.cfg == ["Kinetics/OCT_I3D_8x8", "b.yaml"]
    assert args.opts == ["OUTPUT_DIR=runs/a", "TRAIN.BATCH_SIZE", "8", "X", "1"]


def test_a_mistake_in_a_run_has_status_2(tmp_path: Path) -> None:
    done = run("run", "--cfg", "Kinetics/OCT_I3D_8x8", "TRAIN.BATCH_SIZ", 8, cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean TRAIN.BATCH_SIZE?" in done.stderr


def test_config_and_zoo_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "Kinetics/OCT_I3D_8x8", "--opts", "NUM_GPUS", "2"]) == 0
    said = capsys.readouterr().out
    assert "\nNUM_GPUS: 2\n" in said
    assert main(["zoo", "i3d_8x8*"]) == 0
    assert "Kinetics/I3D_8x8_R50" in capsys.readouterr().out
    assert main(["zoo", "unknown*"]) == 1
