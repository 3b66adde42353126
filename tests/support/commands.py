"""Runs the programs of tools/ in processes that need not import torch first."""

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from support import ROOT
from support.trainers import CONTEXT


def run_tool(
    name: str, *words: object, cwd: Path = ROOT, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs ``python tools/NAME WORDS`` and returns its status and what it printed.

    The process is forked from a server that has imported torch, which saves seconds of each call;
    tests/test_tools.py starts every tool as users do.
    """
    command = [str(ROOT / "tools" / name), *map(str, words)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        paths = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        process = CONTEXT.Process(target=_run, args=(command, str(cwd), *paths))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, process.exitcode, *_texts(out, err))


def _texts(*files: "tempfile._TemporaryFileWrapper[str]") -> list[str]:
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read())
    return texts


def _run(command: list[str], cwd: str, out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        sys.stdout.flush()
