"""Prints configurations.

    octvideo config
    octvideo config Kinetics/OCT_I3D_8x8 --opts NUM_GPUS 2

Without a name it lists the configurations that come with octvideo; with one it prints all values
of that configuration, with those of its bases and the defaults.
"""

import argparse
from collections.abc import Sequence

from octvideo.cli.options import exit_status, new_parser
from octvideo.utils.console import say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    parser.add_argument("cfg", nargs="?", metavar="FILE", help="YAML file or name")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the file"
    )
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    from octvideo.config import dump, list_configs, load_cfg

    say(dump(load_cfg(args.cfg, args.opts)) if args.cfg else "\n".join(list_configs()))
    return 0


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)
    return exit_status(lambda: run(args))
