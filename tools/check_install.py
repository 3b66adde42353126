"""Imported first by every tool: says what to type where a package that it needs is missing."""

import sys
from importlib.util import find_spec
from pathlib import Path

_NEEDED = ("octvideo", "torch", "numpy", "av", "PIL", "fvcore", "iopath", "tqdm", "yaml")
_ROOT = Path(__file__).resolve().parents[1]

if missing := [name for name in _NEEDED if find_spec(name) is None]:
    cure = f"source {_ROOT / '.venv/bin/activate'}"
    if not (_ROOT / ".venv").is_dir():
        cure = f"{sys.executable} -m pip install -c constraints.txt -e {_ROOT}  (see INSTALL.md)"
    sys.exit(f"error: {sys.executable} does not have {', '.join(missing)}; type\n    {cure}")
