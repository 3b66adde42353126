"""Imported first by every tool: says what to type where a package that it needs is missing."""

import sys
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

_NEEDED = ("torch", "numpy", "av", "PIL", "fvcore", "iopath", "tqdm", "yaml")
_ROOT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(_ROOT))  # octvideo of this clone, and its studies
if missing := [name for name in _NEEDED if find_spec(name) is None]:
    there = (_ROOT / ".venv").is_dir()
    install = f"cd {quote(str(_ROOT))} && python3 -m venv .venv && source .venv/bin/activate"
    install += " && pip install -c constraints.txt -e ."
    cure = f"source {quote(str(_ROOT / '.venv/bin/activate'))}" if there else install
    sys.exit(f"error: {sys.executable} does not have {', '.join(missing)}; type\n    {cure}")
