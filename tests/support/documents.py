"""The commands and the Python of the documents, as the reader would type them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from support import ROOT

NAMES = ("README", "GETTING_STARTED", "DATASET", "MODEL_ZOO", "INSTALL", "CONTRIBUTING")
# docs/API.md consists of docstrings.
_PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "API.md")
DOCUMENTS = [ROOT / f"{name}.md" for name in NAMES] + _PAGES

# First words of a line of a shell.
_PROGRAMS = (
    r"python3?|octvideo|torchrun|sbatch|make|git|export|source|(\.venv/bin/)?pip|\$[A-Z0-9]+"
)
_SHELL = rf"([A-Z_0-9]+=\S+ )?({_PROGRAMS})\s"
_PYTHON = r"(import (octvideo|torch)\b|from octvideo|(\w+ = )?octvideo\.\w+\(|model\.|model = )"


@dataclass(frozen=True)
class Block:
    """Indented or fenced lines of a document; ``kind`` is "shell", "python" or "text"."""

    file: Path
    line: int
    text: str

    @property
    def kind(self) -> str:
        if re.match(_PYTHON, self.text):
            return "python"
        return "shell" if re.match(_SHELL + r"|[A-Z0-9]+=\"octvideo", self.text) else "text"

    @property
    def commands(self) -> list[str]:
        """Its lines, those that end in a backslash joined, without comments."""
        lines = re.sub(r"\s*\\\n\s*", " ", self.text).splitlines()
        return [line for line in (re.sub(r"\s+# .*", "", x).strip() for x in lines) if line]

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


def blocks(file: Path) -> list[Block]:
    """All blocks of a document, in its order; without a fence, an empty line ends one."""
    found: list[Block] = []
    part: list[str] = []
    is_fenced = False
    for number, line in enumerate([*file.read_text(encoding="utf-8").splitlines(), ""], start=1):
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
            inside = False
        else:
            inside = is_fenced or (bool(line.strip()) and line.startswith("    "))
        if inside:
            part.append(line)
        elif part:
            found.append(_block(file, number - len(part), part))
            part = []
    return found


def _block(file: Path, line: int, lines: list[str]) -> Block:
    indent = min(len(x) - len(x.lstrip()) for x in lines if x.strip())
    return Block(file, line, "\n".join(x[indent:] for x in lines))


def of_kind(kind: str) -> list[Block]:
    return [block for file in DOCUMENTS for block in blocks(file) if block.kind == kind]


def words(command: str) -> list[str]:
    """Of a command, without what stands for the reader's choice: ``[optional ...]``, ``...``."""
    plain = re.sub(r"(?<=\s)\[(?!\[|\d)[^\]]*\]", "", command)
    return [word for word in shlex.split(plain) if word != "..."]
