"""What the subcommands share: options, and how an error becomes a message and an exit status."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.utils.console import escape_warnings, say
from octvideo.utils.errors import UserError
from octvideo.utils.memory import advice_when_out_of_memory

if TYPE_CHECKING:
    from torch import nn


def new_parser(description: str | None, prog: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help shows the docstring of a subcommand as it is written."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_status(
    work: Callable[[], int],
    errors: tuple[type[Exception], ...] = (UserError, OSError),
    interrupted: str = "interrupted",
) -> int:
    """Runs ``work`` and returns its exit status: 2 after one of ``errors``, 130 after Ctrl-C."""
    try:
        return work()
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:  # of the output; `run_module` ends the program
        raise
    except errors as error:
        say(f"error: {error}", sys.stderr)
        return 2


def at_least(low: int) -> Callable[[str], int]:
    """Returns a type for argparse: a whole number of at least ``low``."""

    def number(text: str) -> int:
        if (value := int(text)) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {text}")
        return value

    return number


def new_model_parser(description: str | None, prog: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options of a model, its views and device, and of the videos."""
    parser = new_parser(description, prog)
    add_source(parser)
    add_run_options(parser)
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="a video or image file")
    add_lists(parser)
    return parser


def add_lists(parser: argparse.ArgumentParser) -> None:
    """Adds the options of lists of videos."""
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="a path, or path and label, a line; a csv with a header; JSON (DATASET.md)",
    )
    parser.add_argument(
        "--separator", default=" ", metavar="SEP", help="between path and label in a --list"
    )
    parser.add_argument(
        "--prefix", default="", metavar="FOLDER", help="put before the paths in a --list"
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """Adds the options of where a model comes from."""
    parser.add_argument("--model", metavar="NAME", help="a model of the zoo (MODEL_ZOO.md)")
    text = "configuration, a file or a name; default: the one in --checkpoint"
    parser.add_argument("--cfg", metavar="FILE", help=text)
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="weights, instead of --model; the folder of a training run (its best checkpoint) or "
        "of save_pretrained; hf://OWNER/NAME; or an exported network (*.onnx, *.xml, *.pt2)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of how a model runs, and --opts."""
    parser.add_argument("--fast", action="store_true", help="one view of each video instead of all")
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="use those frames of a damaged video that decode",
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda if there is one")
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="views in a forward pass")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the file"
    )


def videos_of(args: argparse.Namespace) -> list[str]:
    """Returns the videos that the options name.

    Raises:
        UserError: there are none, or a list cannot be read.
    """
    from octvideo.data.sources.lists import read_list

    videos = list(args.videos)
    for file in args.list:
        listed = read_list(file, args.separator, args.prefix, unlabelled="any")
        listed.report()
        videos += listed.paths()
    if not videos:
        raise UserError("there are no videos: name them, or give a --list")
    return videos


def load_model(args: argparse.Namespace) -> "nn.Module":
    """Returns the model that the options name, on its device.

    Raises:
        UserError: the options contradict each other, or the model or its device is missing.
    """
    if bool(args.model) == bool(args.checkpoint) or (args.model and args.cfg):
        raise UserError("give --model NAME, or --checkpoint FILE, with --cfg FILE if it has none")
    # Imported once the options are known to be sound, and not for --help.
    import torch

    from octvideo.api.loading import checkpoints_of, load_trained, load_zoo
    from octvideo.deploy.files import is_exported
    from octvideo.utils.memory import keep_freed_memory
    from octvideo.weights.download import fetch, is_address

    if args.checkpoint and is_exported(args.checkpoint):
        return _load_exported(args)
    if args.checkpoint and is_address(args.checkpoint):
        args.checkpoint = str(fetch(args.checkpoint))
    elif args.checkpoint and Path(args.checkpoint).is_dir():
        args.checkpoint = str(checkpoints_of(args.checkpoint)[0])
    model = (
        load_zoo(args.model) if args.model else load_trained(args.cfg, args.checkpoint, args.opts)
    )
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    return model


def _load_exported(args: argparse.Namespace) -> "nn.Module":
    from octvideo.api.loading import load

    if args.cfg or args.opts or args.device not in (None, "cpu"):
        raise UserError(
            f"{args.checkpoint} is exported: it says itself how it is used, and runs on the CPU, "
            "without --cfg, --opts and --device"
        )
    return load(args.checkpoint)


def run_model(
    args: argparse.Namespace, run: Callable[[argparse.Namespace], int], interrupted: str
) -> int:
    """Runs a subcommand of `new_model_parser` and returns its exit status."""

    def work() -> int:
        advice = f"lower --batch-size, {args.batch_size}, or use --device cpu"
        with advice_when_out_of_memory("the network", advice):
            return run(args)

    escape_warnings()
    return exit_status(work, interrupted=interrupted)


def model_name(args: argparse.Namespace) -> str:
    """Returns a text that distinguishes the model of the options from others."""
    if args.model:
        return str(args.model)
    from octvideo.config import find_config
    from octvideo.weights import sha256_of

    name = (find_config(args.cfg) if args.cfg else Path(args.checkpoint)).stem
    return " ".join([name, sha256_of(Path(args.checkpoint))[:16], *args.opts])
