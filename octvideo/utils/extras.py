"""Says how to install an optional package that is missing."""

import re
from importlib.metadata import PackageNotFoundError, requires


def install_command(extra: str) -> str:
    """Returns ``pip install "decord==0.6.0"`` for the extra "decord".

    "octvideo[decord]" would ask a package index for octvideo itself, which may not have it. Where
    octvideo is used without being installed, the command installs from the clone.
    """
    try:
        needed = requires("octvideo") or []
    except PackageNotFoundError:
        needed = []
    mark = re.compile(rf"\bextra\s*==\s*['\"]{re.escape(extra)}['\"]")
    packages = [text.partition(";")[0].strip() for text in needed if mark.search(text)]
    if not packages:
        return f'pip install -e ".[{extra}]" in the folder of octvideo'
    return "pip install " + " ".join(f'"{package}"' for package in packages)
