"""Options of the command line that tools for models with weights share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.utils.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def at_least(low: int) -> Callable[[str], int]:
    """A type of argparse: a whole number from ``low`` on."""

    def number(text: str) -> int:
        if (value := int(text)) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {text}")
        return value

    return number


def model_options() -> argparse.ArgumentParser:
    """A parent of parsers: which model, how many views, on which device."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", metavar="NAME", help="a model of the zoo (MODEL_ZOO.md)")
    parser.add_argument(
        "--cfg", metavar="FILE", help="configuration; default: that in --checkpoint"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="weights, in place of --model; of the folder of a training run, the best checkpoint",
    )
    parser.add_argument("--fast", action="store_true", help="one view instead of all")
    parser.add_argument(
        "--allow-partial", action="store_true", help="use the frames that decode of a damaged video"
    )
    parser.add_argument("--device", help="cpu, cuda...; default: cuda where there is one")
    parser.add_argument("--batch-size", type=at_least(1), default=8, help="views in a forward pass")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the file"
    )
    return parser


def video_options() -> argparse.ArgumentParser:
    """A parent of parsers: which videos, by name and in lists."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="a video file, or a picture")
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="a path, or path and label, a line; a csv with a header; JSON (DATASET.md)",
    )
    parser.add_argument("--separator", default=" ", metavar="SEP", help="of a --list's lines")
    parser.add_argument("--prefix", default="", metavar="FOLDER", help="of the paths in --list")
    return parser


def videos_of(args: argparse.Namespace) -> list[str]:
    """The videos that the options name.

    Raises:
        UserError: there are none, or a list cannot be read.
    """
    from octvideo.data.lists import read_list

    videos = list(args.videos)
    for file in args.list:
        videos += read_list(file, args.separator, args.prefix, unlabelled="any").paths()
    if not videos:
        raise UserError("there are no videos: name them, or give a --list")
    return videos


def load_model(args: argparse.Namespace) -> "nn.Module":
    """The model that the options name, on its device.

    Raises:
        UserError: the options are at odds, or the model or its device can not be had.
    """
    if bool(args.model) == bool(args.checkpoint) or (args.model and args.cfg):
        raise UserError("give --model NAME, or --checkpoint FILE, with --cfg FILE if it has none")
    # Imported when the options are known to be sound, and not for --help.
    import torch

    from octvideo.api.create import checkpoints_of, load_trained, load_zoo
    from octvideo.utils.memory import keep_freed_memory

    if args.checkpoint and Path(args.checkpoint).is_dir():
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


def model_name(args: argparse.Namespace) -> str:
    """A text that tells the model of the options from others."""
    if args.model:
        return str(args.model)
    from octvideo.weights import sha256_of

    name = Path(args.cfg or args.checkpoint).stem
    return " ".join([name, sha256_of(Path(args.checkpoint))[:16], *args.opts])
