"""The house keeps its plan: directions of imports, nothing optional at import, small files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import octvideo
from support import ROOT

PACKAGE = ROOT / "octvideo"
FLOORS = [
    {"utils"},
    {"config", "layers"},
    {"distributed"},
    {"surgery"},
    {"models", "data"},
    {"weights"},
    {"deploy"},
    {"engine"},
    {"api"},
    {"cli"},
]
ROOMS = set().union(*FLOORS)
# Besides the floors below a room, itself; rooms on one floor do not know each other.
ALLOWED = {
    room: {room}.union(*FLOORS[:level]) for level, rooms in enumerate(FLOORS) for room in rooms
}
ALLOWED["layers"] = {"layers", "utils"}  # plain arguments only, no configuration
OPTIONAL = {
    "cv2", "decord", "huggingface_hub", "matplotlib", "nncf", "onnx", "onnxruntime", "onnxscript",
    "openvino", "pandas", "pytorchvideo", "safetensors", "timm", "torchcodec", "torchvision",
}  # fmt: skip
MAX_LINES = 450

FILES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted(file for folder in ("tools", "studies") for file in (ROOT / folder).glob("*.py"))


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names that an import statement anywhere below ``tree`` brings in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: up from the package of this file
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def at_module_level(tree: ast.Module) -> ast.Module:
    """The statements that run on import: all but bodies of functions and of TYPE_CHECKING."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

        def visit_If(self, node: ast.If) -> ast.AST:
            if "TYPE_CHECKING" in ast.unparse(node.test):
                return ast.Module(body=node.orelse, type_ignores=[])
            return self.generic_visit(node)

    return Strip().visit(tree)


def rooms_in(tree: ast.AST, package: str) -> set[str]:
    names = (name.split(".") for name in imported(tree, package))
    return {parts[1] for parts in names if parts[0] == "octvideo" and len(parts) > 1} & ROOMS


def package_of(name: str) -> str:
    return name.rpartition("/")[0].replace("/", ".")


def _trees(files: list[Path]) -> Iterator[tuple[str, tuple[str, ...], ast.Module]]:
    """The name of each file, its parts below octvideo/ (or tools/), and its syntax tree."""
    for file in files:
        parts = file.relative_to(PACKAGE if PACKAGE in file.parents else ROOT).parts
        yield str(file.relative_to(ROOT)), parts, ast.parse(file.read_text())


def test_imports_go_down() -> None:
    wrong: dict[str, set[str]] = {}
    for name, parts, tree in _trees(FILES):
        package = package_of(name)
        if len(parts) == 1:  # octvideo/__init__.py and the like import no room when they run
            wrong[name] = rooms_in(at_module_level(tree), package)
            continue
        assert parts[0] in ROOMS, f"a new room: give {parts[0]} its floor in this test"
        wrong[name] = rooms_in(tree, package) - ALLOWED[parts[0]]
    assert not {name: rooms for name, rooms in wrong.items() if rooms}


def test_no_one_imports_the_tools_or_the_tests() -> None:
    for name, _, tree in _trees(FILES):
        tops = {n.split(".")[0] for n in imported(tree, package_of(name))}
        assert not tops & {"tools", "tests", "studies", "support"}, name


def test_nothing_optional_is_imported_at_module_level() -> None:
    for name, _, tree in _trees([*FILES, *TOOLS]):
        names = imported(at_module_level(tree), package_of(name))
        wrong = {n.split(".")[0] for n in names} & OPTIONAL
        assert not wrong, f"{name}: import {', '.join(sorted(wrong))} where it is used"


def test_files_are_small() -> None:
    lines = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in [*FILES, *TOOLS]}
    assert {name: count for name, count in lines.items() if count >= MAX_LINES} == {}


def test_import_is_quick_and_light() -> None:
    code = (
        "import sys, time; start = time.process_time(); import octvideo; "
        "print(time.process_time() - start, *{name.split('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.split()
    assert float(seconds) < 3
    assert not set(modules) & (OPTIONAL | {"torch", "av", "numpy"})


@pytest.mark.slow
def test_importing_every_room_needs_nothing_optional() -> None:
    """Not even through a package that octvideo depends on."""
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in FILES]
    names = [name.removesuffix(".__init__") for name in names]
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(OPTIONAL)!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The test itself must be able to fail


@pytest.mark.parametrize(
    ("source", "package", "rooms"),
    [
        ("import octvideo.data.read.video", "octvideo.models", {"data"}),
        ("from octvideo import engine, utils", "octvideo.data", {"engine", "utils"}),
        ("from octvideo.config import load_cfg", "octvideo.layers", {"config"}),
        ("from ..data import reader", "octvideo.models", {"data"}),
        ("from .. import data", "octvideo.models", {"data"}),
        ("from . import blocks", "octvideo.models", {"models"}),
        ("def f():\n    from octvideo.api import x", "octvideo.engine", {"api"}),
        ("import torch", "octvideo.models", set()),
    ],
)
def test_imports_are_found(source: str, package: str, rooms: set[str]) -> None:
    assert rooms_in(ast.parse(source), package) == rooms


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import cv2", True),
        ("try:\n    import cv2\nexcept ImportError:\n    pass", True),
        ("class A:\n    import cv2", True),
        ("if x:\n    import cv2", True),
        ("def f():\n    import cv2", False),
        ("if TYPE_CHECKING:\n    import cv2", False),
    ],
)
def test_module_level_imports_are_found(source: str, found: bool) -> None:
    assert ("cv2" in imported(at_module_level(ast.parse(source)), "octvideo")) is found


def test_type_checkers_know_the_public_names() -> None:
    """What is imported when it is first used, a type checker reads where it is said to be."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        (alias.name, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == set(octvideo._PUBLIC.items())
    assert (PACKAGE / "py.typed").exists()
