"""Makes a trained network octave, so that it is cheaper, and reports what that cost.

    octvideo octavize runs/mine --files clips --out octave.pyth --report report.md
    octvideo octavize i3d_8x8_r50_k400_pysf --alpha .125 --files *.mp4

SOURCE is the folder of a training run, a checkpoint, or a name of the zoo. A few videos (or images,
for an image network) without labels suffice: they choose the low channels, and each layer is solved
for what the vanilla layer gives on them; then the vanilla network teaches the octave one. Every
fifth file is held out, and agreement with the vanilla network is measured on it after each step.

The checkpoint works with octvideo predict and features, with octvideo.load and create_model, and as
TEST.CHECKPOINT_FILE_PATH of octvideo run, with the configuration of the vanilla network. Files that
cannot be read are reported and left out.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.options import (
    add_run_options,
    at_least,
    exit_status,
    load_model,
    new_parser,
)
from octvideo.utils.console import escape_warnings, say
from octvideo.utils.errors import UserError
from octvideo.utils.memory import advice_when_out_of_memory


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="run folder, checkpoint or zoo name of a vanilla network")
    add("--cfg", metavar="FILE", help="configuration; default: the one in the checkpoint")
    add("--files", nargs="+", required=True, metavar="PATH", help="videos, images, or folders")
    add("--alpha", type=float, default=0.25, help="share of low channels; default: %(default)s")
    add(
        "--choose", choices=("smooth", "first"), default="smooth",
        help="low channels: those that lose least on the files, or the first; default: smooth",
    )  # fmt: skip
    add("--no-refit", action="store_true", help="keep the weights of the layers")
    add("--no-calibrate", action="store_true", help="keep the statistics of the batch norms")
    add("--steps", type=at_least(0), default=200, help="of distillation; default: %(default)s")
    add("--lr", type=float, default=2e-3, help="of distillation; default: %(default)s")
    add("--out", type=Path, metavar="FILE", help="octave checkpoint to write, *.pyth")
    add("--report", type=Path, metavar="FILE", help="Markdown to write; default: print it")
    add("--json", type=Path, metavar="FILE", help="the same figures as JSON")
    add_run_options(parser)
    args = parser.parse_args(words)
    args.command = " ".join(
        [prog or parser.prog, shlex.join(sys.argv[1:] if words is None else words)]
    )
    return args


def run(args: argparse.Namespace) -> int:
    check_targets(args)
    from octvideo.api.conversion import (
        check_arguments,
        content_of,
        convert_to_octave,
    )
    from octvideo.api.conversion_views import files_of
    from octvideo.api.loading import checkpoints_of
    from octvideo.engine import save_checkpoint
    from octvideo.utils.files import write_whole
    from octvideo.weights.download import is_address

    check_arguments(args.alpha, args.choose, args.steps, args.lr)
    found = checkpoints_of(args.source)
    if args.out and args.out.exists() and any(args.out.samefile(path) for path in found):
        raise UserError(f"--out {args.out} is the source itself: name another file")
    is_file = bool(found) or is_address(args.source)
    args.checkpoint, args.model = (args.source, None) if is_file else (None, args.source)
    model = load_model(args)
    conversion = convert_to_octave(
        model,
        files_of(args.files, model),
        args.alpha,
        choose=args.choose,
        refit=not args.no_refit,
        calibrate=not args.no_calibrate,
        steps=args.steps,
        lr=args.lr,
        fast=args.fast,
        batch_size=args.batch_size,
        allow_partial=args.allow_partial,
        command=args.command,
        name=args.source,
    )
    report = conversion.report
    if args.out:
        save_checkpoint(args.out, content_of(conversion, args.source))
    if args.json:
        write_whole(args.json, report.to_json())
    if args.report:
        write_whole(args.report, report.to_markdown())
    else:
        say(report.to_markdown())
    for path in filter(None, (args.out, args.report, args.json)):
        say(f"written: {path}")
    return 0


def check_targets(args: argparse.Namespace) -> None:
    """Raises UserError where a result could not be written, before any work."""
    given = {"--out": args.out, "--report": args.report, "--json": args.json}
    named = {option: path for option, path in given.items() if path is not None}
    for option, path in named.items():
        if path.is_dir():
            raise UserError(f"{option} {path} is a folder: name a file")
    if len({path.resolve() for path in named.values()}) < len(named):
        raise UserError(f"{' and '.join(named)} name the same file")


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)

    def work() -> int:
        advice = f"lower --batch-size, {args.batch_size}, or use --device cpu"
        with advice_when_out_of_memory("the network", advice):
            return run(args)

    escape_warnings()
    return exit_status(work, interrupted="interrupted; nothing was written")
