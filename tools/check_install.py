"""Imported first by every tool: says what to type where a package that it needs is missing, and
lets an early Ctrl-C, while torch is being imported, end the tool without a traceback."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from types import TracebackType

_NEEDED = ("torch", "numpy", "av", "PIL", "fvcore", "iopath", "tqdm", "yaml")
_ROOT = Path(__file__).resolve().parents[1]


def _end_quietly(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Replaces sys.excepthook. Packages may turn the interrupt of their import into an error."""
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, KeyboardInterrupt):
        reason = reason.__cause__ or reason.__context__
    if reason is None:
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)  # what an import left half done must not speak while Python ends


if Path(getattr(sys.modules["__main__"], "__file__", None) or "").parent.name == "tools":
    sys.excepthook = _end_quietly  # and not where a test has imported the tool

sys.path.insert(0, str(_ROOT))  # octvideo of this clone, and its studies
if missing := [name for name in _NEEDED if find_spec(name) is None]:
    there = (_ROOT / ".venv").is_dir()
    install = f"cd {quote(str(_ROOT))} && python3 -m venv .venv && source .venv/bin/activate"
    install += " && pip install -c constraints.txt -e ."
    cure = f"source {quote(str(_ROOT / '.venv/bin/activate'))}" if there else install
    sys.exit(f"error: {sys.executable} does not have {', '.join(missing)}; type\n    {cure}")
