"""Writes a synthetic action set: real H.264 files in the layout of a Kinetics csv data set.

    octvideo synthetic --out data/synthetic [--train 1200 --val 160 --test 160]
    octvideo synthetic --hard --out data/synthetic_hard [--dials detail=2 noise=20 ...]
    octvideo synthetic --images --out data/synthetic_images

Eight actions, each the time reversal of another, in several sizes, frame rates and lengths. With
--hard, 24 classes that need fine detail and motion over a wide field: the texture of the disc that
travels, and its path. With --images, JPEG files for the 2D networks: six classes in folders
(train/, val/). The same seed gives the same set. A finished set is left unchanged, and after an
interruption the same command resumes.

The dials of --hard; a pixel is a 64th of the shorter side:

    detail       shortest period of a texture, pixels, 2 to 32; a clip draws up to twice as much
    contrast     of a texture, 0 to 1
    distractors  discs beside the one that travels, 0 to 20
    camera       how far the camera sways to each side, in shorter sides, 0 to 1
    noise        standard deviation, grey levels of 256, 0 to 100
    blur         standard deviation of a Gaussian, pixels, 0 to 8
    crf          compression of H.264, 0 to 51; more is worse
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from octvideo.cli.options import new_parser
from octvideo.utils.console import say

SETS = {  # default folder; clips or images of train, val, test; seconds of a clip
    "actions": ("synthetic", (1200, 160, 160), (1.5, 4.0)),
    "hard": ("synthetic_hard", (1600, 480, 960), (1.5, 2.5)),
    "images": ("synthetic_images", (1600, 400, 0), (0.0, 0.0)),
}


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--images", action="store_true", help="images instead of clips")
    kind.add_argument("--hard", action="store_true", help="24 classes of fine detail and motion")
    parser.add_argument(
        "--out", type=Path, help="folder to fill; default: data/synthetic[_images, _hard]"
    )
    for split, default in (("train", "1200, hard 1600"), ("val", "160, hard 480"),
                           ("test", "160, hard 960")):  # fmt: skip
        parser.add_argument(f"--{split}", type=int, metavar="N", help=f"clips; default: {default}")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another set")
    parser.add_argument("--workers", type=int, default=2, help="processes; no effect on the files")
    parser.add_argument(
        "--short-side", type=int, nargs=2, default=(64, 96), metavar=("LOW", "HIGH"),
        help="range of the shorter side in pixels, even numbers",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="range of the length of a clip; default: 1.5 4, hard 1.5 2.5",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a synthetic set of other settings"
    )
    parser.add_argument(
        "--dials", nargs="+", default=[], metavar="NAME=VALUE", help="of --hard; see above"
    )
    args = parser.parse_args(words)
    if args.dials and not args.hard:
        parser.error("--dials are of --hard")
    kind_of_set = "images" if args.images else "hard" if args.hard else "actions"
    folder, counts, seconds = SETS[kind_of_set]
    args.out = args.out or Path("data", folder)
    args.seconds = args.seconds or seconds
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        if getattr(args, split) is None:
            setattr(args, split, count)
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
    from octvideo.data.synthetic.hard import HardScenes
    from octvideo.data.synthetic.scenes import Actions
    from octvideo.data.synthetic.videos import make_synthetic

    drawing = HardScenes.with_dials(args.dials) if args.hard else Actions()
    made = make_synthetic(
        args.out,
        num_train=args.train,
        num_val=args.val,
        num_test=args.test,
        seed=args.seed,
        short_side=tuple(args.short_side),
        seconds=tuple(args.seconds),
        drawing=drawing,
        num_workers=args.workers,
        overwrite=args.overwrite,
    )
    clips = f"{args.train} training, {args.val} validation and {args.test} test clips"
    classes = f"{len(drawing.classes)} {'classes' if args.hard else 'actions'}"
    say(f"{'Made' if made else 'Already there'}: {clips} of {classes} in {args.out}")
    say(
        f"Next: octvideo run --cfg Synthetic/{'HARD_OCT_I3D' if args.hard else 'OCT_I3D'} "
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
