"""Results of studies: files of JSON lines, to which each finished measurement adds one."""

import json
import subprocess
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read_lines(path: Path, missing_ok: bool = False) -> list[Line]:
    """Returns the lines of a file; with ``missing_ok`` none if there is no file."""
    if missing_ok and not path.exists():
        return []
    return [json.loads(text) for text in path.read_text().splitlines()]


def append_line(path: Path, line: Line) -> None:
    """Adds a line to a file, which need not exist, nor its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def commit() -> str:
    """Returns the hash of the commit of this code, with "-dirty" where files have changed since."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=True)
    return done.stdout.strip()
