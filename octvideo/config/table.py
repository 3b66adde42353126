"""The table of keys as a page in Markdown."""

import json
from collections.abc import Iterator
from itertools import groupby

from octvideo.config.keys import KEYS, resume_effect
from octvideo.config.schema import Range

_HEAD = """# Configuration keys

<!-- Printed by `octvideo config --keys` from octvideo/config/keys.py: edit that table. -->

A configuration is a YAML file of sections with keys; command-line pairs such as
`TRAIN.BATCH_SIZE 32` override it. Keys, meanings and defaults are those of PySlowFast,
except keys marked *new*.

*Resume* says what happens if a key has changed when a run resumes from its checkpoint: *refused*
(the network or the optimizer is another one), *warned* (the run resumes, but its results are no
longer those of an uninterrupted run), or free (empty)."""


def keys_page() -> str:
    """Returns the page that documents every key: type, default, allowed values and effect."""
    lines = [_HEAD]
    for section, keys in groupby(KEYS, lambda key: key.rpartition(".")[0]):
        lines += ["", f"## {section or 'Top level'}", ""]
        lines += ["| key | default | type | meaning | resume |", "|---|---|---|---|---|"]
        lines += _rows(keys)
    return "\n".join(lines) + "\n"


def _rows(keys: Iterator[str]) -> Iterator[str]:
    for name in keys:
        row, effect = KEYS[name], resume_effect(name).value
        allowed = ""
        if isinstance(row.allowed, Range):
            allowed = f"; {row.allowed.text}"
        elif row.allowed is not None:
            allowed = f": {row.allowed.text}"
        new = " *new*" if row.ours else ""
        # Written as on the command line; quotes show texts that would not be seen.
        is_unseen = isinstance(row.default, str) and not row.default.strip()
        default = json.dumps(row.default) if is_unseen else str(row.default)
        cells = (f"`{name}`{new}", f"`{default}`", f"{row.kind}{allowed}", row.help)
        yield f"| {' | '.join(cells)} | {'' if effect == 'free' else effect} |"
