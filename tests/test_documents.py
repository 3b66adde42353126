"""The documents can be typed: every command is run on small data, or at least parsed.

A block of a document is run (``test_commands_run``), unless ONLY_PARSED names the beginning of a
command and why; then the options are parsed by the tool itself and the configuration is loaded.
"""

import ast
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import torch

import octvideo
import octvideo.cli.main
import octvideo.cli.run
import octvideo.cli.submit
from octvideo.config import load_cfg
from octvideo.data.synthetic.videos import make_synthetic
from studies.api_page import PAGE, api_page
from support import ROOT, load_tool
from support.documents import DOCUMENTS, Block, blocks, of_kind, words

DOWNLOAD, GPU, CLUSTER = "it downloads weights", "it needs a GPU", "it needs several machines"
CHOICE, TIME = "FILE, IMAGES and the like are the reader's", "it takes minutes"
DATA = "its data cannot be downloaded by a command"
ELSEWHERE = "it changes the environment that the tests run in; CI does it"
ONLY_PARSED = {
    "make ": ELSEWHERE,
    "python3 -m venv": ELSEWHERE,
    "source ": ELSEWHERE,
    "pip install": ELSEWHERE,
    ".venv/bin/pip": ELSEWHERE,
    "octvideo run --cfg A.yaml": CHOICE,
    "octvideo run --cfg FILE": CLUSTER,
    "octvideo run --cfg Own/one_gpu": GPU,
    "octvideo run --cfg Kinetics/": GPU,
    "octvideo run --cfg External/": GPU,
    "octvideo run --cfg ImageNet/": GPU,
    "octvideo run --cfg SHREC17/": DATA,
    "octvideo prepare shrec17": DATA,
    "octvideo convert": DOWNLOAD,
    "octvideo octavize": DOWNLOAD,
    "octvideo features --model": DOWNLOAD,
    "octvideo quantize": TIME,
    "octvideo predict --checkpoint oct_i3d.int8.onnx": "`octvideo quantize` writes its file",
    "octvideo benchmark model": TIME,
    "octvideo benchmark train": TIME,
    "octvideo benchmark deploy": TIME,
    "python -m studies.export_table": TIME,
    "python -m studies.accuracy_cost": TIME,
    "python -m studies.kinetics_cost": "tests/studies/test_evidence.py compares what it prints",
    "octvideo submit": CLUSTER,
    "octvideo synthetic --hard": TIME,
    "python -m pytest": "the tests are running",
    "python tools/benchmark.py tables": TIME,
    "python tools/benchmark.py loader": TIME,
    "python tools/benchmark.py test": TIME,
    "python tools/analyze.py": CHOICE,
    "torchrun ": CLUSTER,
    "sbatch ": CLUSTER,
}
# What is neither a command nor Python, by how it begins.
TEXTS = (
    "Epoch 5:",
    "@inproceedings",
    "DATA.PATH_TO_DATA_DIR/",
    "videos/",
    "y_H = ",  # Eq. 4
    "utils <- {config",
    "imagenet/train/",
    "docker ",  # tests/test_image.py
)
# Values for the words that a document leaves to the reader.
STAND_INS = {
    "FILE": "configs/Synthetic/OCT_I3D.yaml",
    "A.yaml": "configs/Synthetic/OCT_I3D.yaml",
    "JOB": "1",
}

COMMANDS = [(block, command) for block in of_kind("shell") for command in block.commands]
every_command = pytest.mark.parametrize(
    ("block", "command"), COMMANDS, ids=[f"{b}-{c[:40]}" for b, c in COMMANDS]
)
every_snippet = pytest.mark.parametrize("block", of_kind("python"), ids=str)


def reason(command: str) -> str | None:
    return next((why for start, why in ONLY_PARSED.items() if command.startswith(start)), None)


# ---------------------------------------------------------------- parsed


def test_every_block_is_known() -> None:
    """A new kind of block, or a reason that no command has any more, is not passed over."""
    unknown = [
        f"{block}: {block.text.splitlines()[0]}"
        for block in of_kind("text")
        if not block.text.startswith(TEXTS)
    ]
    assert not unknown
    commands = [command for _, command in COMMANDS]
    unused = [s for s in ONLY_PARSED if not any(c.startswith(s) for c in commands)]
    assert not unused


@every_command
def test_a_command_is_accepted(block: Block, command: str) -> None:
    """By the parser of its tool, with a configuration that can be loaded."""
    variables = dict(re.findall(r'^([A-Z0-9]+)="(.+)"$', "\n".join(block.commands), flags=re.M))
    command = re.sub(r"^\$(\w+)", lambda match: variables[match[1]], command)
    parts = [STAND_INS.get(word, word) for word in words(command)]
    while parts and re.fullmatch(r"[A-Z0-9_]+=.*", parts[0]):
        parts.pop(0)
    tools = [i for i, word in enumerate(parts) if word.startswith("tools/")]
    own = [i for i, word in enumerate(parts) if word == "octvideo"]
    if tools:
        assert (ROOT / parts[tools[0]]).is_file()
        _parse(_module_of(Path(parts[tools[0]])), parts[tools[0] + 1 :])
    elif own and len(parts) > own[0] + 1:
        name = parts[own[0] + 1]
        assert name in octvideo.cli.main.COMMANDS or name.startswith("-")
        if not name.startswith("-"):
            _parse(importlib.import_module(f"octvideo.cli.{name}"), parts[own[0] + 2 :])
    elif parts[:1] == ["make"]:
        rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        assert set(parts[1:2]) <= set(rules)
    elif parts[:1] == ["pip"] and "-e" in parts:
        for extra in re.findall(r"\[([\w,]+)\]", parts[-1]):
            assert set(extra.split(",")) <= _extras()
    else:
        assert not parts or reason(command) or parts[0] == "export", command


def _module_of(tool: Path) -> ModuleType:
    if tool.suffix == ".sbatch":
        subprocess.run(["bash", "-n", ROOT / tool], check=True)
        tool = Path("tools/run_net.py")
    return load_tool(tool.stem)


def _parse(module: ModuleType, options: list[str]) -> None:
    if "--help" in options or "-h" in options:
        return
    parsed = module.parse_args(options)
    args = parsed[0] if isinstance(parsed, tuple) else parsed
    rest = parsed[1] if isinstance(parsed, tuple) else getattr(args, "opts", [])
    if module is octvideo.cli.submit:
        inner = octvideo.cli.run.parse_args(rest)
        args, rest = inner, inner.opts
    paths = getattr(args, "cfg", None) or []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        load_cfg(ROOT / path if (ROOT / path).exists() else path, rest)


def _extras() -> set[str]:
    text = (ROOT / "setup.py").read_text()
    return set(re.findall(r'^\s+"(\w+)": \[', text, flags=re.M))


# ---------------------------------------------------------------- links


def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue  # an address
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in _anchors(target), link


def test_the_page_of_the_interface_is_current() -> None:
    assert PAGE.read_text() == api_page(), "run python -m studies.api_page"


def test_names_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = "|".join(path.name for path in (ROOT / "octvideo").iterdir() if path.is_dir())
    names = set(re.findall(rf"`((?:{rooms})\.[\w.]+)`", text))
    assert len(names) > 20
    for name in names:
        assert pkgutil.resolve_name(f"octvideo.{name}")
    for path in re.findall(r"`((?:octvideo|tests|tools)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path


# ---------------------------------------------------------------- Python


@every_snippet
def test_names_and_arguments_exist(block: Block) -> None:
    """Every call of octvideo binds to the signature of what it calls."""
    names: dict[str, object] = {"octvideo": octvideo}
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            names |= {alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(ast.parse(block.text)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).split(".")
        if called[0] not in names:
            continue
        function = names[called[0]]
        for name in called[1:]:
            function = getattr(function, name)
        keywords = {word.arg: None for word in node.keywords if word.arg}
        inspect.signature(function).bind(*node.args, **keywords)  # type: ignore[arg-type]
        for word in node.keywords:
            if word.arg == "pretrained" and isinstance(word.value, ast.Constant):
                name = str(word.value.value)
                if word.value.value is True:  # of a library
                    assert str(ast.literal_eval(node.args[0])).startswith("torchvision/")
                    continue
                assert name.startswith("./") or name in octvideo.list_pretrained()


def test_the_snippet_of_an_octave_layer_runs() -> None:
    [block] = [b for b in blocks(ROOT / "GETTING_STARTED.md") if "OctConv3d(" in b.text]
    names = {
        "x_h": torch.zeros(2, 48, 4, 8, 8),
        "x_l": torch.zeros(2, 16, 4, 4, 4),
    }
    exec(compile(block.text, str(block), "exec"), names)
    assert [*names["y_h"].shape] == [2, 96, 4, 8, 8]
    assert [*names["y_l"].shape] == [2, 32, 4, 4, 4]


def test_the_snippet_that_makes_a_network_octave_runs() -> None:
    [block] = [b for b in blocks(ROOT / "GETTING_STARTED.md") if "octavize(" in b.text]
    layers = {f"layer{k}": torch.nn.Conv2d(3 if k == 1 else 8, 8, 3, padding=1) for k in (1, 2, 3)}
    names = {"model": torch.nn.Sequential(OrderedDict(layers))}
    exec(compile(block.text, str(block), "exec"), names)
    kinds = [type(layer).__name__ for layer in names["octave"]]
    assert kinds == ["Conv2d", "OctConv2d", "OctConv2d"]
    assert names["octave"](torch.zeros(2, 3, 64, 64)).shape == (2, 8, 64, 64)


# ---------------------------------------------------------------- run


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """A checkout, and what the documents take as given: videos, pictures and annotations."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("octvideo", "configs", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    make_synthetic(folder / "made", num_train=24, num_val=2, num_test=2, seed=5, seconds=(1, 1.5))
    clips = sorted((folder / "made/train").rglob("*.mp4"))
    rows = ["label,youtube_id,time_start,time_end,split"]
    for number, clip in enumerate(clips):
        name = ("cooking", "dancing")[number % 2]
        target = folder / "videos" / name / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, target)
        video = f"id{number:09d}"
        (folder / "k400/videos").mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, folder / f"k400/videos/{video}_000001_000011.mp4")
        rows.append(f"{('abseiling', 'air drumming')[number % 2]},{video},1,11,train")
    (folder / "k400/annotations").mkdir()
    for split in ("train", "validate"):
        text = "\n".join(rows).replace(",train", "," + split)
        (folder / f"k400/annotations/{split}.csv").write_text(text + "\n")
    shutil.copy(clips[0], folder / "clip.mp4")
    return folder


# Typed as they are, but for the size of the synthetic sets.
SHELL = """
set -e
octvideo() {
    if [ "$1" = synthetic ]; then set -- "$@" --train 24 --val 8 --test 8; fi
    PYTHON -m octvideo "$@"
}
"""


# What they predict with has been trained on another page.
AFTER = {"EXPORT.md": "GETTING_STARTED.md", "PREDICT.md": "GETTING_STARTED.md"}
HAS_RUN: set[str] = set()  # in this process, whose pages share a folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.stem)
def test_commands_run(scratch: Path, file: Path) -> None:
    for page in [p for p in DOCUMENTS if p.name == AFTER.get(file.name)]:
        if page.name not in HAS_RUN:
            _run_commands(page, scratch)
    _run_commands(file, scratch)


def _run_commands(file: Path, scratch: Path) -> None:
    HAS_RUN.add(file.name)
    environment = {**os.environ, "PYTHONPATH": str(scratch), "OMP_NUM_THREADS": "1"}
    shell = SHELL.replace("PYTHON", shlex.quote(sys.executable))
    for block in [block for block in blocks(file) if block.kind == "shell"]:
        commands = [command for command in block.commands if not reason(command)]
        if not commands:
            continue
        if "photo.jpg" in block.text:
            picture = next((scratch / "data/synthetic_images").rglob("*.jp*g"))
            shutil.copy(picture, scratch / "photo.jpg")
        done = subprocess.run(
            ["bash", "-c", shell + "\n".join(commands)],
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        for run in re.findall(r"OUTPUT_DIR (runs/\w+)(?!.*TEST.ENABLE False)", "\n".join(commands)):
            assert (scratch / run / "predictions.csv").is_file()
