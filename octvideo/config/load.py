"""Reads a configuration: YAML files with ``_BASE_``, then options, then the checks."""

import difflib
import errno
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml
from fvcore.common.config import CfgNode

from octvideo.config.checks import ConfigError, validate
from octvideo.config.derived import Processes
from octvideo.config.external import follow_published
from octvideo.config.keys import KEYS, get_cfg, leaf_values
from octvideo.config.named import find_config, list_configs
from octvideo.config.pyslowfast import translate
from octvideo.config.remarks import remarks
from octvideo.config.unsupported import (
    ABLATIONS,
    IGNORED,
    INSTEAD,
    REFUSED,
    REPLACED_VALUES,
    ignored_name,
)
from octvideo.config.values import WrongTypeError, decode, show
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")

BASE_KEY = "_BASE_"
COMMAND_LINE = "command line"
_MISSING = object()
_NEAR = 0.75  # likeness of a key that is offered for an unknown one
_MAX_NODES = 100_000  # of a YAML file, aliases written out; the tree has some 300
_MAX_BYTES = 4 << 20  # of a YAML file
_MAX_FILES = 100  # that one configuration is made of; each base counts as often as it is named

_DEFAULTS = leaf_values(get_cfg())
_SECTIONS = frozenset(key.rpartition(".")[0] for key in _DEFAULTS) - {""}
# Mappings under these names hold keys; below any other name a mapping is a value.
_MAPPINGS = _SECTIONS | {name for name in IGNORED if "." not in name}

PathLike = str | os.PathLike[str]


class Setting(NamedTuple):
    """One key that a file or the command line sets."""

    key: str
    value: object
    origin: str  # "file.yaml:12" or "command line"


def load_cfg(
    path: PathLike | Sequence[PathLike] | None = None,
    opts: Sequence[object] = (),
    launched: Processes | None = None,
) -> CfgNode:
    """Returns the configuration of a run: the defaults, changed by files, changed by options.

    A file may name others that it changes: ``_BASE_: other.yaml``, or a list of them, relative
    to itself, or by name, as ``_BASE_: Kinetics/I3D_8x8_R50``. Sections of PySlowFast outside
    octvideo's scope are ignored with a warning.

    Args:
        path: a YAML file or the name of a configuration that comes with octvideo, or several, of
            which later ones win; None or "" for the defaults.
        opts: ``["KEY", "VALUE", ...]`` or ``["KEY=VALUE", ...]``; they win over the files.
        launched: the processes that torchrun or SLURM has started, if one of them has.

    Returns:
        The tree, checked and frozen.

    Raises:
        ConfigError: unknown keys, values of the wrong type, impossible combinations, unreadable
            files: all of them in one message, each with its origin and with what to set.
    """
    reader = _Reader()
    settings = [s for file in _paths(path) for s in reader.read(file)]
    readable = not reader.problems
    settings += _parse_opts(opts, reader.problems)

    cfg = get_cfg()
    applied = _apply(cfg, settings)
    problems = reader.problems + applied.problems
    notes: list[str] = []
    if not problems:
        try:
            notes += follow_published(cfg, applied.origins)
        except UserError as error:
            origin = applied.origins.get("MODEL.MODEL_NAME", "defaults")
            problems.append(f"{origin}: {error}")
    if readable:  # what a missing file would have set cannot be judged
        problems += [
            f"{applied.origins.get(p.key, 'defaults')}: {p}"
            for p in validate(cfg, launched)
            if not any(key in p.text for key in applied.wrong)
        ]
    if problems:
        raise ConfigError(problems)
    if applied.ignored:
        names = ", ".join(sorted(applied.ignored))
        logger.warning("configuration: ignored, as octvideo does not have them: %s", names)
    for key, (value, instead) in applied.replaced.items():
        text = "configuration: %s %s is read as %s, which octvideo has in its place"
        logger.warning(text, key, value, instead)
    for note in notes:
        logger.info("configuration: %s", note)
    for remark in remarks(cfg, launched):
        logger.warning("configuration: %s", remark)
    cfg.freeze()
    return cfg


def cfg_of_checkpoint(text: str | None, opts: Sequence[object] = ()) -> CfgNode | None:
    """The configuration whose text a checkpoint holds, of any version of octvideo or PySlowFast.

    Nothing is checked: keys that octvideo does not have are left out, and those of another type
    keep their defaults. None: there is no configuration, or the text is none.
    ``opts``: as of ``load_cfg``; mistakes in them are a ConfigError.
    """
    reader = _Reader()
    settings = list(reader.parse(Path("a checkpoint"), (), text or ""))
    if not settings or reader.problems:
        return None
    cfg = get_cfg()
    # In one go: what keys mean depends on which others are given, in the file or as an option.
    problems = _apply(cfg, [*settings, *_parse_opts(opts, reader.problems)]).problems
    of_options = [problem for problem in problems if problem.startswith(f"{COMMAND_LINE}:")]
    if reader.problems or of_options:
        raise ConfigError(reader.problems + of_options)
    for problem in (problem for problem in problems if any(key in problem for key in ABLATIONS)):
        logger.warning("%s; its network is read as one of the paper's operator", problem)
    cfg.freeze()
    return cfg


def dump(cfg: CfgNode) -> str:
    """The whole tree as YAML text, which ``load_cfg`` reads back to an equal tree."""
    return str(cfg.dump(default_flow_style=None))


def _paths(path: PathLike | Sequence[PathLike] | None) -> list[Path]:
    if path is None or path == "":
        return []
    if isinstance(path, (str, os.PathLike)):
        return [find_config(path)]
    return [find_config(p) for p in path]


@dataclass
class _Reader:
    """Reads YAML files into settings and collects what is wrong with the files."""

    problems: list[str] = field(default_factory=list)
    files: int = 0  # read so far

    def read(self, path: Path, chain: tuple[Path, ...] = ()) -> list[Setting]:
        """The settings of a file after those of its bases; ``chain``: the files that led here."""
        if path.resolve() in [file.resolve() for file in chain]:
            circle = " -> ".join(map(str, (*chain, path)))
            self.problems.append(f"{chain[-1]}: {BASE_KEY} leads back to itself: {circle}")
            return []
        self.files += 1
        if self.files > _MAX_FILES:
            if self.files == _MAX_FILES + 1:
                text = f"{path}: {BASE_KEY} leads to more than {_MAX_FILES} files"
                self.problems.append(text)
            return []
        settings = list(self.parse(path, chain))
        own = [s for s in settings if s.key != BASE_KEY]
        return [s for s in settings if s.key == BASE_KEY for s in self._bases(path, s, chain)] + own

    def _bases(self, path: Path, base: Setting, chain: tuple[Path, ...]) -> list[Setting]:
        names = [base.value] if isinstance(base.value, str) else base.value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.problems.append(
                f"{base.origin}: {BASE_KEY} is {show(base.value)}: expected one file or a list"
            )
            return []
        files = [self._base(path, name) for name in names]
        return [s for file in files for s in self.read(file, (*chain, path))]

    @staticmethod
    def _base(path: Path, name: str) -> Path:
        """The file of a base: relative to the file that names it, else found by name."""
        file = path.parent / Path(name).expanduser()
        named = find_config(name)
        return named if named.exists() and not file.exists() else file

    def parse(
        self, path: Path, chain: tuple[Path, ...], text: str | None = None
    ) -> Iterator[Setting]:
        """The settings of a file without its bases; ``text``: what is in it, if it is known."""
        try:
            loader = yaml.SafeLoader(_read_text(path, bool(chain)) if text is None else text)
            root = loader.get_single_node()
            if _size(root, {}) > _MAX_NODES:
                self.problems.append(
                    f"{path}: is not valid YAML here: its aliases make it endless, or far too large"
                )
            elif isinstance(root, yaml.MappingNode):
                yield from self._walk(loader, root, path, "", {})
            elif root is not None and loader.construct_object(root, deep=True) is not None:
                self.problems.append(f"{path}: expected sections with keys, such as TRAIN:")
        except OSError as error:
            named = f", which {chain[-1]} names as its {BASE_KEY}" if chain else ""
            near = "" if path.exists() else _similar_name(path)
            self.problems.append(f"{path}{named}: cannot be read: {error.strerror}{near}")
        except UnicodeDecodeError as error:
            self.problems.append(f"{path}: is not a text file in UTF-8: {error}")
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            self.problems.append(f"{path}{line}: is not valid YAML: {error.problem}")
        except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
            self.problems.append(f"{path}: is not valid YAML: {error}")
        except RecursionError:
            self.problems.append(f"{path}: is nested too deeply")

    def _walk(
        self,
        loader: yaml.SafeLoader,
        node: yaml.MappingNode,
        path: Path,
        prefix: str,
        lines: dict[str, int],
    ) -> Iterator[Setting]:
        """The settings under a YAML mapping, with dotted keys; ``lines`` has the keys so far.

        Of a key that is given twice the last one counts, as in PySlowFast; of a section as well.
        """
        last = {f"{prefix}{key_node.value}": key_node for key_node, _ in node.value}
        for key_node, value_node in node.value:
            key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
            if key in lines:
                text = "%s:%d: %s is given again: line %d is ignored, remove one of them"
                logger.warning(text, path, line, key, lines[key])
            lines[key] = line
            if key_node is not last[key]:
                continue
            if key in _MAPPINGS and isinstance(value_node, yaml.MappingNode):
                yield from self._walk(loader, value_node, path, f"{key}.", lines)
                continue
            value = loader.construct_object(value_node, deep=True)
            if key not in _MAPPINGS or value is not None:  # else a section without keys
                yield Setting(key, value, f"{path}:{line}")


def _similar_name(path: Path) -> str:
    """Returns advice where a missing file resembles a configuration that comes with octvideo."""
    near = difflib.get_close_matches(str(path.with_suffix("")), list(list_configs()), 1, _NEAR)
    return f"; did you mean {near[0]}?" if near else ""


def _read_text(path: Path, is_base: bool) -> str:
    """The text of a file; bounded, as what a path names may never end (a device, a pipe)."""
    # The file that the user names may be a pipe, as of the shell's <(command).
    if is_base and path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(path, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {_MAX_BYTES} bytes")
    return content.decode()


def _parse_opts(opts: Sequence[object], problems: list[str]) -> list[Setting]:
    """Settings of ``KEY VALUE`` pairs and ``KEY=VALUE`` items, which may be mixed."""
    settings, items = [], iter(opts)
    for item in items:
        value: object
        key, equals, value = str(item).partition("=")
        if not equals:
            value = next(items, _MISSING)
            if value is _MISSING:
                problems.append(
                    f"{COMMAND_LINE}: {key} has no value: write {key} VALUE or {key}=VALUE"
                )
                continue
        settings.append(Setting(key, value, COMMAND_LINE))
    return settings


@dataclass
class _Applied:
    """What happened to the settings."""

    origins: dict[str, str] = field(default_factory=dict)  # of each key that was set
    wrong: set[str] = field(default_factory=set)  # known keys with a value of the wrong type
    blank: dict[str, str] = field(default_factory=dict)  # key without a value -> problem
    ignored: set[str] = field(default_factory=set)  # names outside octvideo's scope
    replaced: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> old, new value
    problems: list[str] = field(default_factory=list)


def _apply(cfg: CfgNode, settings: Sequence[Setting]) -> _Applied:
    """Writes the settings into the tree, in order."""
    applied = _Applied()
    refused: dict[str, Setting] = {}
    for setting in settings:
        key, value, origin = setting
        if key in _DEFAULTS:
            try:
                value = _of_its_kind(key, value)
                applied.blank.pop(key, None)
                applied.replaced.pop(key, None)  # the last setting of a key counts
                if (known := REPLACED_VALUES.get(key)) and value in known:
                    applied.replaced[key] = value, known[value]
                    value = known[value]
                _assign(cfg, key, value)
                applied.origins[key] = origin
            except WrongTypeError:
                applied.wrong.add(key)
                problem = f"{origin}: {_wrong_type(key, value)}"
                if value is None:  # a later setting may fill it in
                    applied.blank[key] = problem
                else:
                    applied.problems.append(problem)
        elif key in REFUSED:
            refused[key] = setting  # the last one counts
        elif name := ignored_name(key):
            applied.ignored.add(name)
        else:
            applied.problems.append(f"{origin}: {_unknown(key, value)}")
    for key, old, new in translate(cfg, applied.origins):
        applied.replaced[key] = old, new
    applied.problems += applied.blank.values()
    for key, value, origin in refused.values():
        if (decode(value) if isinstance(value, str) and value else value) != REFUSED[key]:
            applied.problems.append(
                f"{origin}: {key} {show(value)} is outside octvideo's scope: remove it, or set "
                f"{key} {show(REFUSED[key])}{INSTEAD.get(key, '')}"
            )
    return applied


def _of_its_kind(key: str, value: object) -> object:
    """The value in the type of its key; None ("None" in files of PySlowFast) is empty.

    Raises:
        WrongTypeError: it is of another type.
    """
    default, kind = _DEFAULTS[key], KEYS[key].kind
    if (value is None or value == "None") and not kind.optional:
        if default not in ("", [], ()):
            raise WrongTypeError
        return default
    return kind.convert(value)


def _assign(cfg: CfgNode, key: str, value: object) -> None:
    *sections, name = key.split(".")
    for section in sections:
        cfg = cfg[section]
    cfg[name] = value


def _wrong_type(key: str, value: object) -> str:
    default = _DEFAULTS[key]
    example = "" if default in (None, True, False, "", [], ()) else f" such as {show(default)}"
    return f"{key} is {show(value)}: expected {KEYS[key].kind}{example}"


def _unknown(key: str, value: object) -> str:
    if key in _SECTIONS:
        member = next(known for known in _DEFAULTS if known.startswith(f"{key}."))
        return f"{key} is {show(value)}: it is a section; set its keys, such as {member}"
    near = _nearest(key)
    advice = f"did you mean {near}?" if near else "`octvideo config --keys` prints all keys"
    return f"unknown key {key} (value {show(value)}): {advice}"


def _nearest(key: str) -> str | None:
    """The known key that resembles this one, if any does; keys with the same last part first."""
    key = key.upper()
    tail = key.rpartition(".")[2]
    same = [known for known in _DEFAULTS if known.rpartition(".")[2] == tail]
    near = difflib.get_close_matches(
        key, same or _DEFAULTS, n=1, cutoff=0 if len(same) == 1 else _NEAR
    )
    return near[0] if near else None


def _size(node: yaml.Node | None, known: dict[int, float]) -> float:
    """How many nodes a YAML tree has, its aliases written out; inf where it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (
            part for entry in inner for part in (entry if isinstance(entry, tuple) else [entry])
        )
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
