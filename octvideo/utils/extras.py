"""Says how to install an optional package that is missing."""

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from types import ModuleType

from octvideo.utils.errors import UserError


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


def import_extra(module: str, extra: str, user: str) -> ModuleType:
    """Returns a module of the packages of an extra.

    user: what needs it, for the message, as "MODEL.MODEL_NAME timm/resnet50".

    Raises:
        UserError: a package is missing, or does not load; says how to install them.
    """
    try:
        return import_module(module)
    # RuntimeError, AttributeError: a package that was built for another torch.
    except (ImportError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"{user} needs {extra}, which cannot be imported ({error}): {install_command(extra)}"
        ) from error
