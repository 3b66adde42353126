"""Writes docs/API.md from the docstrings of the public names; --check only compares."""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path

import octvideo
from octvideo import layers
from octvideo.models.classifier import Network
from octvideo.utils.files import write_whole

PAGE = Path(__file__).resolve().parents[1] / "docs/API.md"
_METHODS = ("reset_classifier", "save_pretrained", "push_to_hub")
_HEAD = """# Python API

<!-- Written by `python -m studies.api_page` from the docstrings: edit those, not this file. -->

[REFERENCE.md](REFERENCE.md#python) has the same names in one table. N is the batch, C channels,
T frames, H and W height and width.
"""


def api_page() -> str:
    """Returns the text of docs/API.md."""
    public = [name for name in octvideo.__all__ if name not in ("__version__", "ViewSettings")]
    parts = [_HEAD, "## octvideo\n"]
    parts += [_entry(f"octvideo.{name}", getattr(octvideo, name)) for name in public]
    parts += ["## Networks\n\nWhat `create_model` and `load` return has these methods.\n"]
    parts += [_entry(f"model.{name}", getattr(Network, name)) for name in _METHODS]
    parts += ["## octvideo.layers\n"]
    parts += [_entry(f"octvideo.layers.{name}", getattr(layers, name)) for name in layers.__all__]
    return "\n".join(parts)


def _entry(name: str, thing: object) -> str:
    call = f"`{name.rpartition('.')[2]}{_signature(thing)}`"
    doc = "\n".join(_markdown(inspect.getdoc(thing) or ""))
    return f"### {name}\n\n{call}\n\n{doc}\n"


def _signature(thing: object) -> str:
    """Returns the arguments as they are written in the source, whatever the version of Python."""
    if inspect.isclass(thing) and is_dataclass(thing):
        [made] = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
        assert isinstance(made, ast.ClassDef)
        fields = [ast.unparse(x) for x in made.body if isinstance(x, ast.AnnAssign)]
        return f"({', '.join(fields)})".replace("'", '"')
    function = getattr(thing, "__init__", None) if inspect.isclass(thing) else thing
    if not inspect.isfunction(function) or not function.__module__.startswith("octvideo"):
        return ""
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    arguments = re.sub(r"^self(, )?", "", ast.unparse(tree.args).replace("'", '"'))
    returns = f" -> {ast.unparse(tree.returns)}" if tree.returns and function is thing else ""
    return f"({arguments}){returns}"


def _markdown(doc: str) -> Iterator[str]:
    """Yields the lines of a docstring: sections have a heading in bold, their entries a bullet."""
    in_section = False
    for line in doc.replace("``", "`").splitlines():
        if section := re.fullmatch(r"(Args|Attributes|Returns|Raises):", line):
            in_section = True
            yield from (f"**{section[1]}**", "")
        elif in_section and (entry := re.match(r" {4}(\w[\w, ]*): (.*)", line)):
            yield f"* `{entry[1]}`: {entry[2]}"
        elif in_section and line.startswith(" "):
            yield f"  {line.strip()}"
        else:
            in_section = in_section and not line
            yield line


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is not current")
    args = parser.parse_args(words)
    if args.check:
        return int(PAGE.read_text(encoding="utf-8") != api_page())
    write_whole(PAGE, api_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
