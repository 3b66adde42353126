#!/usr/bin/env python3
"""Measures models and configurations.

    python tools/benchmark.py complexity --cfg configs/Kinetics/OCT_I3D_8x8.yaml [--json]
    python tools/benchmark.py tables [--table N ...] [--time] [--json]
    python tools/benchmark.py table6 [--json]
    python tools/benchmark.py model [MODEL ...] [--alphas .125 .25 .5] [--device cuda] [--json]
    python tools/benchmark.py train [MODEL ...] [--batch 8] [--dtype bf16] [--json]
    python tools/benchmark.py loader [--video FILE] [--json]
    python tools/benchmark.py test [--video FILE] [--json]
    python tools/benchmark.py scale --cfg FILE --gpu-clips N --core-clips N --file-mb N [--json]

complexity: multiply-adds (convolutions and linear layers, 1 FLOP = 1 multiply-add), parameters
and activations of one clip at DATA.TRAIN_CROP_SIZE, by section; nothing is run.

tables: Tables 1 to 6 of "Drop an Octave", our multiply-adds and parameters beside the paper's; with
--time also the times of Table 2, measured on one thread of this CPU in one interleaved run.

table6: multiply-adds and parameters of every network of Table 6 of "Drop an Octave", beside the
paper's GFLOPs, in Markdown; where a network is octave, for both placements of the octave.

model, train: time of a forward pass and of a training step, throughput and peak memory of each
network with each alpha and of its vanilla twin, in one interleaved run, and which part of the
speed-up that its multiply-adds promise is real; beside the network in torch's 3D operations.

loader, test: CPU time of a training clip and of the 30 views of a video, beside the way of
PySlowFast, in one interleaved run; for a film made for it, or FILE, and its re-encoding.

scale: what a training asks of network, loader cores and storage on 1 to 512 GPUs, computed from
the clips a second that a GPU and a core were measured at (train --device cuda, loader).
"""

import argparse
import json
import sys
from pathlib import Path

import check_install  # noqa: F401

from octvideo.config import load_cfg
from octvideo.utils.console import say
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
    scale = commands.add_parser(
        "scale", parents=[common], help="network, cores and storage for many GPUs"
    )
    add = scale.add_argument
    add("--gpu-clips", type=float, required=True, metavar="N", help="clips/s that a GPU trains on")
    add("--core-clips", type=float, required=True, metavar="N", help="clips/s of a loader core")
    add("--file-mb", type=float, required=True, metavar="N", help="size of a video")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64, 512], metavar="N")
    add("--gpus-per-node", type=int, default=8, metavar="N", help="default: %(default)s")
    scale.set_defaults(run=run_scale)
    table6 = commands.add_parser("table6", help="our multiply-adds beside the paper's Table 6")
    table6.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    table6.set_defaults(run=run_table6)
    tables = commands.add_parser("tables", help="Tables 1 to 6 of the paper, ours beside theirs")
    add = tables.add_argument
    add("--table", type=int, nargs="+", choices=range(1, 7), default=range(1, 7), metavar="N")
    add("--time", action=argparse.BooleanOptionalAction, default=False, help="of Table 2")
    add("--rounds", type=int, default=15, metavar="N", help="of --time; default: 15")
    add("--json", action="store_true", help="print JSON instead of Markdown")
    tables.set_defaults(run=run_tables)
    _add_model_commands(commands)
    _add_data_commands(commands)
    return parser.parse_args(argv)


def _add_model_commands(commands: argparse._SubParsersAction) -> None:
    both = argparse.ArgumentParser(add_help=False)
    add = both.add_argument
    add("models", nargs="*", default=["i3d_r50"], metavar="MODEL", help="default: i3d_r50")
    alphas = [0.125, 0.25, 0.5]
    text = "octave networks beside the vanilla one; default: 0.125 0.25 0.5"
    add("--alphas", nargs="*", type=float, default=alphas, metavar="A", help=text)
    add("--stages", nargs="+", type=int, default=[2, 3, 4], help="octave ones; default: 2 3 4")
    add("--divisor", type=int, default=1, metavar="D", help="OCTAVE.CHANNEL_DIVISOR")
    text = "conv3d_eager, ours or ours_compiled; default: conv3d_eager ours"
    add("--variants", nargs="+", default=["conv3d_eager", "ours"], metavar="V", help=text)
    add("--batch", type=int, default=None, metavar="N", help="clips; default: 1, train: 2")
    add("--size", type=int, default=224, metavar="S", help="side of a clip; default: 224")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    add("--threads", type=int, default=1, metavar="N", help="of the CPU; default: 1")
    add("--rounds", type=int, default=15, metavar="N", help="default: 15")
    add("--json", action="store_true", help="print JSON instead of Markdown")
    for name, text in (("model", "a forward pass"), ("train", "a training step")):
        command = commands.add_parser(name, parents=[both], help=f"time and memory of {text}")
        command.set_defaults(run=run_models, training=name == "train")


def run_models(args: argparse.Namespace) -> None:
    from octvideo.api.benchmark import benchmark_models, format_model_rows

    rows = benchmark_models(
        args.models,
        args.alphas,
        args.variants,
        args.rounds,
        training=args.training,
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        batch=args.batch or (2 if args.training else 1),
        size=args.size,
        stages=tuple(args.stages),
        channel_divisor=args.divisor,
    )
    print(json.dumps(rows) if args.json else format_model_rows(rows))


def _add_data_commands(commands: argparse._SubParsersAction) -> None:
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--video", metavar="FILE", help="measure this video, not a synthetic one")
    data.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    data.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    loader = commands.add_parser("loader", parents=[data], help="CPU time of a training clip")
    loader.add_argument("--clips", type=int, default=96, metavar="N", help="a round; default: 96")
    loader.add_argument(
        "--workers", type=int, default=2, metavar="N", help="loader processes; default: 2"
    )
    loader.set_defaults(run=run_loader)
    test = commands.add_parser("test", parents=[data], help="CPU time of 30 views of a video")
    test.set_defaults(run=run_test)


def run_complexity(args: argparse.Namespace) -> None:
    cfg = load_cfg(args.cfg, args.opts)
    # Imported when the configuration is known to be sound: a mistyped key is told at once.
    from octvideo.api.complexity import complexity_of, format_complexity

    report = complexity_of(cfg, Path(args.cfg).stem)
    print(json.dumps(report) if args.json else format_complexity(report))


def run_scale(args: argparse.Namespace) -> None:
    cfg = load_cfg(args.cfg, args.opts)
    from octvideo.api.scale import Measured, format_scale, scale_table

    measured = Measured(args.gpu_clips, args.core_clips, args.file_mb)
    rows = scale_table(cfg, measured, args.gpus, args.gpus_per_node)
    print(json.dumps(rows) if args.json else format_scale(rows))


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


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
