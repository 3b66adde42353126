"""Finds where a file keeps the parameters of a network, and what their names begin with.

Training programs save a network under many keys ("model", "state_dict", "module"), often after
wrapping it, which gives all names a prefix ("module.", "_orig_mod.", "model.", "backbone.").
"""

import logging
import re
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from pathlib import Path

from torch import Tensor

from octvideo.weights.formats.files import CheckpointError

logger = logging.getLogger("octvideo")

# Keys of the parameters and of their running average, the first that is there being taken.
_STATES = ("model_state", "state_dict", "model_state_dict", "model", "module", "network", "net")
_AVERAGES = ("ema_state", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema")
_MAX_DEPTH = 3  # of one such key below another
# What torch puts into the names of modules that it wraps, at any place.
_WRAPPER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A weight that each network of a kind has once, behind whatever prefix: ours, torchvision's,
# PyTorchVideo's.
_LANDMARK = re.compile(
    r"((?:[^.]+\.)*?)(?:s1\.pathway0_stem\.(?:conv|a)\.weight|stem\.conv\.weight"
    r"|layer1\.0\.conv1\.weight|blocks\.0\.(?:multipathway_blocks\.0\.)?conv\.(?:conv_t\.)?weight)"
)
_LAST_LAYER = ("head.projection.", "fc.")
_SHOWN = 3


def find_state(content: object, path: Path, average: bool = False) -> tuple[object, str]:
    """Returns the parameters in a file's content, and the key that they are under ("": no key).

    ``average``: take the running average where there is one. Where no key is known, the one that
    holds tensors is taken; the result is not checked further.

    Raises:
        CheckpointError: several unknown keys hold tensors.
    """
    order = (*_AVERAGES, *_STATES) if average else (*_STATES, *_AVERAGES)
    keys: list[str] = []
    while isinstance(content, Mapping) and len(keys) < _MAX_DEPTH:
        held = [key for key, value in content.items() if isinstance(key, str) and _holds(value)]
        known = [key for key in order if key in held]
        if not known and (not held or _has_tensors(content)):
            break
        if not known and len(held) > 1:
            raise CheckpointError(
                f"{path} holds several sets of parameters, under {', '.join(map(repr, held))}: "
                "save the one that is meant as a file of its own"
            )
        keys.append((known or held)[0])
        content = content[keys[-1]]
    return content, ".".join(keys)


def _has_tensors(content: Mapping[object, object]) -> bool:
    return any(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _holds(value: object, depth: int = 1) -> bool:
    """Returns whether a value is a dict of named tensors, or has one under a known key."""
    if not isinstance(value, Mapping):
        return False
    inner = [value.get(key) for key in (*_STATES, *_AVERAGES)] if depth < _MAX_DEPTH else []
    return _has_tensors(value) or any(_holds(v, depth + 1) for v in inner)


def without_prefix(
    state: Mapping[str, Tensor], clear: Sequence[str], path: Path, key: str = ""
) -> dict[str, Tensor]:
    """Removes the prefix from the names of the one network in ``state``.

    ``clear``: texts to remove first, each at its first occurrence in a name. The prefix is what the
    name of the network's first layer begins with. Entries without it do not belong to the network
    and are left out with a warning, except a last layer. ``key``: for the messages.

    Raises:
        CheckpointError: there are several networks, or parameters get the same name.
    """
    names = {name: cleared(name, clear) for name in state}
    prefix = _prefix_of(list(names.values()), path)
    parts = prefix.split(".")[:-1]
    parents = ["".join(f"{part}." for part in parts[:n]) for n in range(len(parts))]
    taken, left_out = {}, []
    for name, new in names.items():
        if new.startswith(prefix):
            taken[name] = new.removeprefix(prefix)
        elif outside := next((new[len(p) :] for p in parents if _is_head(new, p)), ""):
            taken[name] = outside
        else:
            left_out.append(name)
    if len(set(taken.values())) < len(taken):
        removed = [*clear, *([prefix] if prefix else [])]
        raise CheckpointError(f"{path}: without {removed}, parameters have the same name")
    place = f"under {key!r}, " if key else ""
    if any(name != new for name, new in taken.items()):
        example = next((name, new) for name, new in taken.items() if name != new)
        logger.info("%s: %sthe weight %s is taken as %s, and so on", path, place, *example)
    elif key not in ("", "model_state"):
        logger.info("%s: the weights under %r are taken", path, key)
    if left_out:
        shown = ", ".join(left_out[:_SHOWN]) + (", ..." if len(left_out) > _SHOWN else "")
        logger.warning(
            "%s: %d entries do not begin with %r, as those of the network do, and are left out: %s",
            path,
            len(left_out),
            prefix,
            shown,
        )
    return {new: state[name] for name, new in taken.items()}


def cleared(name: str, clear: Sequence[str]) -> str:
    """Removes these texts from a name, at their first occurrence, and what torch's wrappers add."""
    for text in clear:
        name = name.replace(text, "", 1)
    return _WRAPPER.sub("", name)


def _is_head(name: str, parent: str) -> bool:
    """Returns whether a name is of a last layer beside the rest: "backbone.s1", "head"."""
    return name.startswith(tuple(f"{parent}{layer}" for layer in _LAST_LAYER))


def _prefix_of(names: Sequence[str], path: Path) -> str:
    prefixes = {match[1] for name in names if (match := _LANDMARK.fullmatch(name))}
    if len(prefixes) > 1 and "" not in prefixes:
        raise CheckpointError(
            f"{path} holds several networks, whose names begin with "
            f"{', '.join(map(repr, sorted(prefixes)))}: save the one that is meant as a file of "
            "its own"
        )
    if prefixes:
        return min(prefixes)
    return "module." if all(name.startswith("module.") for name in names) else ""


def common_prefix(names: Sequence[str]) -> str:
    """Returns what all names begin with, up to and including a dot; "" if they differ."""
    head, dot, _ = commonprefix(list(names)).rpartition(".")  # noqa: RUF071 - characters
    return head + dot
