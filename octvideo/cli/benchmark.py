"""Measures networks and configurations.

    octvideo benchmark complexity --cfg Kinetics/OCT_I3D_8x8 [--json]
    octvideo benchmark model [MODEL ...] [--alphas .125 .25 .5] [--device cuda] [--json]
    octvideo benchmark train [MODEL ...] [--batch 8] [--dtype bf16] [--json]
    octvideo benchmark deploy [MODEL ...] [--alphas .25 .5] [--forms onnx ours] [--threads 1 2]
    octvideo benchmark scale --cfg FILE --gpu-clips N --core-clips N --file-mb N [--json]

complexity: multiply-adds (convolutions and linear layers, 1 FLOP = 1 multiply-add), parameters
and activations of one clip at DATA.TRAIN_CROP_SIZE, by section; nothing is run.

model, train: time of a forward pass and of a training step, throughput and peak memory of each
network for each alpha and of its vanilla twin, in one interleaved run, and how much of the
speed-up that the multiply-adds predict is achieved; beside the network in torch's 3D operations.

deploy: time, throughput, memory and file size of networks on a CPU in every form: ours in fp32, in
bf16 and compiled, and exported to ONNX and OpenVINO, in float and in int8, in one interleaved run.

scale: what a training run needs of network, loader cores and storage on 1 to 512 GPUs, computed
from the measured clips a second of one GPU and of one loader core.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.cli.options import at_least, exit_status, new_parser

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    Parsers = tuple[argparse.ArgumentParser, Commands]


def parsers(description: str | None, prog: str | None) -> "Parsers":
    """Returns the parser, and the subparsers to which studies add commands of their own."""
    parser = new_parser(description, prog)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    of_cfg = argparse.ArgumentParser(add_help=False)
    add = of_cfg.add_argument
    add("--cfg", required=True, metavar="FILE", help="YAML file or name of a configuration")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the file")
    complexity = commands.add_parser(
        "complexity", parents=[of_cfg], help="multiply-adds, parameters, activations"
    )
    complexity.set_defaults(run=run_complexity)
    scale = commands.add_parser(
        "scale", parents=[of_cfg], help="network, cores and storage for many GPUs"
    )
    add = scale.add_argument
    add("--gpu-clips", type=float, required=True, metavar="N", help="clips/s that a GPU trains on")
    add("--core-clips", type=float, required=True, metavar="N", help="clips/s of a loader core")
    add("--file-mb", type=float, required=True, metavar="N", help="size of a video")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64, 512], metavar="N")
    add("--gpus-per-node", type=int, default=8, metavar="N", help="default: %(default)s")
    scale.set_defaults(run=run_scale)
    _add_model_commands(commands)
    _add_deploy_command(commands)
    return parser, commands


def _add_deploy_command(commands: "Commands") -> None:
    deploy = commands.add_parser("deploy", help="time and memory of a network in every form")
    add = deploy.add_argument
    text = "name of create_model, run folder, checkpoint or zoo name; default: i3d_r50"
    add("models", nargs="*", default=["i3d_r50"], metavar="MODEL", help=text)
    text = "of names of create_model, beside the vanilla network; default: 0.25 0.5"
    add("--alphas", nargs="*", type=float, default=[0.25, 0.5], metavar="A", help=text)
    text = (
        "ours, ours_bf16, ours_compiled, onnx, onnx_int8, openvino, openvino_int8, openvino_bf16; "
        "default: all but the last, which few processors can run"
    )
    add("--forms", nargs="+", metavar="FORM", help=text)
    add("--threads", type=at_least(1), nargs="+", default=[1], metavar="N", help="default: 1")
    add("--batch", type=at_least(1), default=1, metavar="N", help="clips; default: 1")
    add("--rounds", type=at_least(1), default=8, metavar="N", help="default: 8")
    add("--folder", type=Path, metavar="FOLDER", help="keep the exported files, and use them again")
    add("--json", action="store_true", help="print JSON instead of Markdown")
    deploy.set_defaults(run=run_deploy)


def _add_model_commands(commands: "Commands") -> None:
    both = argparse.ArgumentParser(add_help=False)
    add = both.add_argument
    add("models", nargs="*", default=["i3d_r50"], metavar="MODEL", help="default: i3d_r50")
    alphas = [0.125, 0.25, 0.5]
    text = "octave networks to run beside the vanilla one; default: 0.125 0.25 0.5"
    add("--alphas", nargs="*", type=float, default=alphas, metavar="A", help=text)
    add("--stages", nargs="+", type=int, default=[2, 3, 4], help="octave stages; default: 2 3 4")
    add("--divisor", type=int, default=1, metavar="D", help="OCTAVE.CHANNEL_DIVISOR")
    text = "conv3d_eager, ours or ours_compiled; default: conv3d_eager ours"
    add("--variants", nargs="+", default=["conv3d_eager", "ours"], metavar="V", help=text)
    add("--batch", type=int, default=None, metavar="N", help="clips; default: 1, train: 2")
    add("--size", type=int, default=224, metavar="S", help="side of a clip; default: 224")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads; default: 1")
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


def run_deploy(args: argparse.Namespace) -> None:
    from octvideo.api.benchmark_deploy import DEFAULT_FORMS, benchmark_deploy, format_deploy_rows

    with tempfile.TemporaryDirectory() as scratch:
        rows = benchmark_deploy(
            args.models,
            args.alphas,
            args.forms or DEFAULT_FORMS,
            args.threads,
            args.batch,
            args.rounds,
            folder=args.folder or Path(scratch),
        )
    print(json.dumps(rows) if args.json else format_deploy_rows(rows))


def run_complexity(args: argparse.Namespace) -> None:
    from octvideo.config import find_config, load_cfg

    cfg = load_cfg(args.cfg, args.opts)
    # Imported once the configuration is known to be sound: a mistyped key is reported at once.
    from octvideo.api.complexity import complexity_of, format_complexity

    report = complexity_of(cfg, Path(find_config(args.cfg)).stem)
    print(json.dumps(report) if args.json else format_complexity(report))


def run_scale(args: argparse.Namespace) -> None:
    from octvideo.config import load_cfg

    cfg = load_cfg(args.cfg, args.opts)
    from octvideo.api.scale import Measured, format_scale, scale_table

    measured = Measured(args.gpu_clips, args.core_clips, args.file_mb)
    rows = scale_table(cfg, measured, args.gpus, args.gpus_per_node)
    print(json.dumps(rows) if args.json else format_scale(rows))


def run_parsed(args: argparse.Namespace) -> int:
    """Runs the function that the chosen command has set; returns the exit status."""
    run: Callable[[argparse.Namespace], None] = args.run

    def work() -> int:
        run(args)
        return 0

    return exit_status(work)


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return parsers(__doc__, prog)[0].parse_args(words)


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    return run_parsed(parse_args(words, prog))
