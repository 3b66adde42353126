"""Measures networks, configurations and the data path; the commands of `octvideo benchmark` too.

    python tools/benchmark.py complexity --cfg Kinetics/OCT_I3D_8x8 [--json]
    python tools/benchmark.py model [MODEL ...] [--alphas .125 .25 .5] [--device cuda] [--json]
    python tools/benchmark.py train [MODEL ...] [--batch 8] [--dtype bf16] [--json]
    python tools/benchmark.py deploy [MODEL ...] [--alphas .25 .5] [--forms onnx ours] [--json]
    python tools/benchmark.py scale --cfg FILE --gpu-clips N --core-clips N --file-mb N [--json]
    python tools/benchmark.py tables [--table N ...] [--time] [--json]
    python tools/benchmark.py table6 [--json]
    python tools/benchmark.py loader [--video FILE] [--json]
    python tools/benchmark.py test [--video FILE] [--json]

complexity, model, train, deploy, scale: see `octvideo benchmark --help`.

tables: Tables 1 to 6 of "Drop an Octave", our multiply-adds and parameters beside the paper's;
--time adds the times of Table 2, measured on one thread of this CPU in one interleaved run.

table6: multiply-adds and parameters of every network of Table 6 beside the paper's GFLOPs, in
Markdown; for octave networks, with both placements of the octave.

loader, test: CPU time of a training clip and of the 30 views of a video, beside PySlowFast's way,
in one interleaved run, for a synthetic film, or FILE, and its re-encoding.
"""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from octvideo.cli.benchmark import parsers, run_parsed

if TYPE_CHECKING:
    from octvideo.cli.benchmark import Commands


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser, commands = parsers(__doc__, prog)
    table6 = commands.add_parser("table6", help="our multiply-adds beside the paper's Table 6")
    table6.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    table6.set_defaults(run=run_table6)
    tables = commands.add_parser("tables", help="Tables 1 to 6 of the paper, ours beside theirs")
    add = tables.add_argument
    add("--table", type=int, nargs="+", choices=range(1, 7), default=range(1, 7), metavar="N")
    text = "measure the times of Table 2"
    add("--time", action=argparse.BooleanOptionalAction, default=False, help=text)
    add("--rounds", type=int, default=15, metavar="N", help="rounds of --time; default: 15")
    add("--json", action="store_true", help="print JSON instead of Markdown")
    tables.set_defaults(run=run_tables)
    _add_data_commands(commands)
    return parser.parse_args(words)


def _add_data_commands(commands: "Commands") -> None:
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--video", metavar="FILE", help="measure this video, not a synthetic one")
    data.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    data.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    loader = commands.add_parser("loader", parents=[data], help="CPU time of a training clip")
    add = loader.add_argument
    add("--clips", type=int, default=96, metavar="N", help="clips of a round; default: 96")
    add("--workers", type=int, default=2, metavar="N", help="loader processes; default: 2")
    loader.set_defaults(run=run_loader)
    test = commands.add_parser("test", parents=[data], help="CPU time of 30 views of a video")
    test.set_defaults(run=run_test)


def run_table6(args: argparse.Namespace) -> None:
    from studies.table6 import format_table6, table6

    rows = table6()
    print(json.dumps(rows) if args.json else format_table6(rows))


def run_tables(args: argparse.Namespace) -> None:
    from studies.paper_tables import format_paper_tables, paper_tables

    rows = paper_tables(args.table, args.rounds if args.time else None)
    print(json.dumps(rows) if args.json else format_paper_tables(rows))


def run_loader(args: argparse.Namespace) -> None:
    from studies.benchmark_data import benchmark_loader, format_data_rows

    rows = benchmark_loader(args.video, args.clips, args.rounds, args.workers)
    print(json.dumps(rows) if args.json else format_data_rows(rows))


def run_test(args: argparse.Namespace) -> None:
    from studies.benchmark_data import benchmark_test, format_data_rows

    rows = benchmark_test(args.video, args.rounds)
    print(json.dumps(rows) if args.json else format_data_rows(rows))


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    return run_parsed(parse_args(words, prog))
