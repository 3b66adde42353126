"""Prints configurations.

    octvideo config
    octvideo config Kinetics/OCT_I3D_8x8 --opts NUM_GPUS 2
    octvideo config --keys

Without arguments it lists the configurations that come with octvideo. With a file or a name it
prints all values of that configuration, including those of its bases and the defaults. --keys
prints the documentation of all keys in Markdown, as in docs/CONFIG.md.
"""

import argparse
from collections.abc import Sequence

from octvideo.cli.options import exit_status, new_parser
from octvideo.utils.console import say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    parser.add_argument("cfg", nargs="?", metavar="FILE", help="YAML file or name")
    parser.add_argument("--keys", action="store_true", help="print all keys and their meaning")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the file"
    )
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    from octvideo.config import dump, list_configs, load_cfg
    from octvideo.config.table import keys_page

    if args.keys:
        say(keys_page().rstrip())
        return 0
    say(dump(load_cfg(args.cfg, args.opts)) if args.cfg else "\n".join(list_configs()))
    return 0


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)
    return exit_status(lambda: run(args))
