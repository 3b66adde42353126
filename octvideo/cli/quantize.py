"""Writes an exported network in int8, and reports what that cost.

    octvideo quantize mine.onnx mine.int8.onnx --files clips --test test.csv
    octvideo quantize mine.xml mine.int8.xml --list train.csv --max-drop 1 --fast

A few videos (or images, for an image network) without labels show which values occur in the
network. --test is a list; with labels, accuracy is measured, and otherwise how often the first
class is that of SOURCE. Without --test every fifth file is held out for it. If that falls by more
than --max-drop, the most sensitive layers stay in float. The file works like any other:
octvideo predict --checkpoint mine.int8.onnx clip.mp4
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from octvideo.cli.options import add_lists, at_least, exit_status, new_parser, videos_of
from octvideo.utils.console import escape_warnings, say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="file of octvideo export: *.onnx or *.xml")
    add("file", help="file to write, of the same format")
    add(
        "--files", nargs="+", default=[], dest="videos", metavar="PATH",
        help="videos, images, or folders to learn from",
    )  # fmt: skip
    add_lists(parser)
    add("--test", metavar="FILE", help="list of files to measure on; --separator, --prefix apply")
    add(
        "--max-drop", type=float, default=0.5, metavar="POINTS",
        help="of accuracy or agreement in percent; default: %(default)s",
    )  # fmt: skip
    add("--clips", type=at_least(1), default=100, help="to learn from; default: %(default)s")
    add("--fast", action="store_true", help="one view of each file instead of all")
    add("--allow-partial", action="store_true", help="use those frames of a video that decode")
    add("--batch-size", type=at_least(1), default=8, help="views in a forward pass")
    add("--json", action="store_true", help="print JSON instead of Markdown")
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    from octvideo.api.quantization import quantize

    report = quantize(
        args.source,
        args.file,
        videos_of(args),
        test=args.test,
        separator=args.separator,
        prefix=args.prefix,
        max_drop=args.max_drop,
        clips=args.clips,
        fast=args.fast,
        batch_size=args.batch_size,
        allow_partial=args.allow_partial,
    )
    say(json.dumps(asdict(report)) if args.json else report.to_markdown())
    return 0


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    escape_warnings()
    args = parse_args(words, prog)
    return exit_status(lambda: run(args), interrupted="interrupted; nothing was written")
