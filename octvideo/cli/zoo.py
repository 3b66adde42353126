"""Lists the pretrained networks, and the configurations that have no published weights.

    octvideo zoo
    octvideo zoo "*i3d*" --all

Accuracies are those that the publisher states, in percent; MODEL_ZOO.md has the addresses.
"""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch

from octvideo.cli.options import new_parser
from octvideo.utils.console import say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    parser.add_argument("pattern", nargs="?", default="*", help='such as "*slowfast*"')
    parser.add_argument("--all", action="store_true", help="also those without weights")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)
    from octvideo.weights.zoo import zoo_entries

    found = [
        entry
        for entry in zoo_entries()
        if fnmatch(entry.name, args.pattern) and (args.all or entry.address)
    ]
    if not found:
        say(f"no network of the zoo is named like {args.pattern}", sys.stderr)
        return 1
    rows = [("name", "data", "top-1", "configuration")]
    for entry in found:
        top1 = "" if entry.top1 is None else f"{entry.top1:.1f}"
        rows.append((entry.name, entry.data, top1, entry.config))
    say("\n".join(f"{name:42} {data:14} {top1:>6}  {cfg}" for name, data, top1, cfg in rows))
    return 0
