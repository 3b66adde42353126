"""Writes the synthetic action set: real H.264 files in the layout of a Kinetics csv data set.

    octvideo synthetic --out data/synthetic [--train 1200 --val 160 --test 160]
    octvideo synthetic --images --out data/synthetic_images

Eight actions, each the time reversal of another, in several sizes, frame rates and lengths. The
same seed gives the same set. A finished set is left unchanged, and after an interruption the same
command resumes. With --images it writes JPEG files for the 2D networks instead: six classes in
folders (train/, val/; by default 1600 and 400 files).
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from octvideo.cli.options import new_parser
from octvideo.utils.console import say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    parser.add_argument("--images", action="store_true", help="images instead of clips")
    parser.add_argument("--out", type=Path, help="folder to fill; default: data/synthetic[_images]")
    parser.add_argument("--train", type=int, metavar="N", help="training clips; default: 1200")
    parser.add_argument("--val", type=int, metavar="N", help="validation clips; default: 160")
    parser.add_argument("--test", type=int, default=160, metavar="N", help="default: 160")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another set")
    parser.add_argument("--workers", type=int, default=2, help="processes; no effect on the files")
    parser.add_argument(
        "--short-side", type=int, nargs=2, default=(64, 96), metavar=("LOW", "HIGH"),
        help="range of the shorter side in pixels, even numbers",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=(1.5, 4.0), metavar=("LOW", "HIGH"),
        help="range of the length of a clip",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a synthetic set of other settings"
    )
    args = parser.parse_args(words)
    args.out = args.out or Path("data/synthetic_images" if args.images else "data/synthetic")
    for name, clips, images in (("train", 1200, 1600), ("val", 160, 400)):
        if getattr(args, name) is None:
            setattr(args, name, images if args.images else clips)
    return args


def make_images(args: argparse.Namespace) -> None:
    from octvideo.data.synthetic.images import CLASSES, make_synthetic_images

    made = make_synthetic_images(args.out, num_train=args.train, num_val=args.val, seed=args.seed)
    text = f"{args.train} training and {args.val} validation images of {len(CLASSES)} classes"
    say(f"{'Made' if made else 'Already there'}: {text} in {args.out}")
    say(
        "Next: octvideo run --cfg Synthetic/OCT_RESNET26 "
        f"--opts DATA.PATH_TO_DATA_DIR {shlex.quote(str(args.out))}"
    )


def make_videos(args: argparse.Namespace) -> None:
    from octvideo.data.synthetic.videos import ACTIONS, make_synthetic

    made = make_synthetic(
        args.out,
        num_train=args.train,
        num_val=args.val,
        num_test=args.test,
        seed=args.seed,
        short_side=tuple(args.short_side),
        seconds=tuple(args.seconds),
        num_workers=args.workers,
        overwrite=args.overwrite,
    )
    clips = f"{args.train} training, {args.val} validation and {args.test} test clips"
    say(f"{'Made' if made else 'Already there'}: {clips} of {len(ACTIONS)} actions in {args.out}")
    say(
        "Next: octvideo run --cfg Synthetic/OCT_I3D "
        f"--opts DATA.PATH_TO_DATA_DIR {shlex.quote(str(args.out))}"
    )


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)
    try:
        make_images(args) if args.images else make_videos(args)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    except (FileExistsError, ValueError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
    except OSError as error:
        say(
            f"error: cannot write the set to {args.out}: {error}. Make room or choose another "
            f"--out, then run the same command again: finished clips are kept.",
            sys.stderr,
        )
        return 1
    except BrokenProcessPool as error:
        print(f"error: {error} Try again with --workers 1.", file=sys.stderr)
        return 1
    return 0
