#!/usr/bin/env python3
"""Measures models and configurations.

    python tools/benchmark.py complexity --cfg configs/Kinetics/OCT_I3D_8x8.yaml [--json]
    python tools/benchmark.py table6 [--json]

complexity: multiply-adds (convolutions and linear layers, 1 FLOP = 1 multiply-add), parameters
and activations of one clip at DATA.TRAIN_CROP_SIZE, by section; nothing is run.

table6: multiply-adds and parameters of every network of Table 6 of "Drop an Octave", beside the
paper's GFLOPs, in Markdown; where a network is octave, for both placements of the octave.
"""

import argparse
import json
import sys
from pathlib import Path

from octvideo.config import load_cfg
from octvideo.utils.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--cfg", required=True, metavar="FILE", help="YAML file")
    common.add_argument("--json", action="store_true", help="print JSON instead of a table")
    common.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the file"
    )
    complexity = commands.add_parser(
        "complexity", parents=[common], help="multiply-adds, parameters, activations"
    )
    complexity.set_defaults(run=run_complexity)
    table6 = commands.add_parser("table6", help="our multiply-adds beside the paper's Table 6")
    table6.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    table6.set_defaults(run=run_table6)
    return parser.parse_args(argv)


def run_complexity(args: argparse.Namespace) -> None:
    cfg = load_cfg(args.cfg, args.opts)
    # Imported when the configuration is known to be sound: a mistyped key is told at once.
    from octvideo.apps.complexity import complexity_of, format_complexity

    report = complexity_of(cfg, Path(args.cfg).stem)
    print(json.dumps(report) if args.json else format_complexity(report))


def run_table6(args: argparse.Namespace) -> None:
    from octvideo.apps.table6 import format_table6, table6

    rows = table6()
    print(json.dumps(rows) if args.json else format_table6(rows))


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
