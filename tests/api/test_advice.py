"""Advice names only what exists: keys, functions, files, options and extras, in every message."""

import argparse
import ast
import contextlib
import importlib
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest

import octvideo
from octvideo.cli.main import COMMANDS, main
from octvideo.config import ConfigError, leaf_values, load_cfg
from octvideo.config.keys import get_cfg
from octvideo.config.pyslowfast import IMAGE_DEPTHS
from octvideo.config.unsupported import IGNORED, REFUSED
from support import ROOT

TEXTS = [*sorted((ROOT / "octvideo").rglob("*.py")), *sorted((ROOT / "tools").glob("*.py"))]
KEY = re.compile(r"\b([A-Z][A-Z0-9]+\.[A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\b")
FUNCTION = re.compile(r"\boctvideo((?:\.[a-z_]\w*)+)\b")
FILE = re.compile(r"\b((?:configs|tools|docs|tests)/[\w./-]+\.(?:yaml|py|md))\b")
EXTRA = re.compile(r"octvideo\[(\w+)\]")
OF_OTHERS = {"--ntasks", "--ntasks-per-node", "--kill-on-bad-exit"}  # of SLURM
OF_OTHERS |= {"--shm-size", "--ipc"}  # of Docker
OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]+)")


@cache
def strings(file: Path) -> tuple[str, ...]:
    """The texts of a file, docstrings included; of an f-string its fixed parts, joined by a {}."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in joined for part in node.values}
    texts = [
        "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        for node in joined
    ]
    texts += [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
    ]
    return tuple(texts)


def named(pattern: re.Pattern[str]) -> dict[str, str]:
    """What the texts name -> a file that does."""
    found = {}
    for file in TEXTS:
        for text in strings(file):
            found.update(dict.fromkeys(pattern.findall(text), str(file.relative_to(ROOT))))
    assert found
    return found


def test_keys() -> None:
    keys = {*leaf_values(get_cfg()), *IGNORED, *REFUSED}
    sections = {key.partition(".")[0] for key in leaf_values(get_cfg())}
    unknown = {
        k: f for k, f in named(KEY).items() if k.partition(".")[0] in sections and k not in keys
    }
    assert not unknown


def exists(dotted: str) -> bool:
    """Whether octvideo.a.b.c is a module, or what one has."""
    names = dotted.strip(".").split(".")
    for count in range(len(names), -1, -1):
        try:
            value = importlib.import_module(".".join(["octvideo", *names[:count]]))
        except ImportError:
            continue
        for name in names[count:]:
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True
    return False


def test_functions_files_and_extras() -> None:
    assert not {n: f for n, f in named(FUNCTION).items() if not exists(n)}
    assert not {n: f for n, f in named(FILE).items() if not (ROOT / n).exists()}
    extras = re.findall(r'^    "(\w+)":', (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert {*named(EXTRA)} <= {*extras}


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those of other programs; a tool with commands adds the options of each at once."""
    taken = {"--help", *OF_OTHERS}
    add = argparse._ActionsContainer.add_argument

    def noting(self, *names, **more):
        taken.update(name for name in names if name.startswith("--"))
        return add(self, *names, **more)

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", noting)
    monkeypatch.syspath_prepend(ROOT / "tools")
    for tool in sorted((ROOT / "tools").glob("*.py")):
        monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(tool), run_name="__main__")
    for words in ([], *([name] for name in COMMANDS), ["prepare", "shrec17"]):
        with contextlib.suppress(SystemExit):
            main([*words, "--help"])
    assert not {option: file for option, file in named(OPTION).items() if option not in taken}


def test_every_depth_of_an_image_network() -> None:
    """The name that is offered for PySlowFast's MODEL.ARCH 2d is one of list_models()."""
    networks = octvideo.list_models()
    assert set(octvideo.list_models("resnet*_v1b")) == {f"resnet{d}_v1b" for d in IMAGE_DEPTHS}
    for depth in (18, 34):
        opts = ["MODEL.ARCH", "2d", "DATA.NUM_FRAMES", 1, "RESNET.DEPTH", depth]
        with pytest.raises(ConfigError) as error:
            load_cfg(None, [*opts, "MODEL.MODEL_NAME", "ResNet"])
        offered = re.findall(r"\w+_v\d\w?\b", str(error.value))
        assert offered
        assert set(offered) <= set(networks)
