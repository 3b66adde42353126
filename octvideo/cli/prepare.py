"""Makes the lists of a data set: finds the videos, checks each one, and re-encodes them if asked.

    octvideo prepare --tree /data/clips --out /data/lists --val 0.1 --test 0.1
    octvideo prepare --annotations train.csv val.csv --videos /data/k400 \\
        --class-names kinetics400 --out /data/lists --reencode /data/k400_256
    octvideo prepare shrec17 HandGestureDataset_SHREC2017 --out data/shrec17

Writes train.csv, val.csv, test.csv, bad_videos.csv, videos.csv and class_names.json into --out;
DATASET.md explains them. Re-encoded files are kept: after an interruption the same command
resumes. `octvideo prepare shrec17 --help` explains the data set that has a converter of its own.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.options import at_least, exit_status, new_parser
from octvideo.utils.console import escape_warnings, say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["shrec17"]:
        from octvideo.cli import shrec17

        return shrec17.parse_args(words[1:], f"{prog} shrec17" if prog else None)
    parser = new_parser(__doc__, prog)
    parser.set_defaults(work=run)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--tree", type=Path, metavar="FOLDER", help="FOLDER/CLASS/*.mp4 or FOLDER/train/CLASS/*.mp4"
    )
    source.add_argument(
        "--annotations", type=Path, nargs="+", metavar="CSV", help="Kinetics annotation files"
    )
    parser.add_argument(
        "--layout",
        choices=("auto", "classes", "splits"),
        default="auto",
        help="what the folders in --tree are; default: splits if all read like train, val, test",
    )
    parser.add_argument(
        "--videos", type=Path, metavar="FOLDER", help="where the files of --annotations are"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where to write the lists"
    )
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="kinetics400, kinetics600, or a text or JSON file",
    )
    parser.add_argument(
        "--val", type=float, default=0.0, help="fraction of the training videos to hold out"
    )
    parser.add_argument("--test", type=float, default=0.0, help="the same for test.csv")
    parser.add_argument("--seed", type=int, default=0, help="of the random split")
    parser.add_argument(
        "--reencode", type=Path, metavar="FOLDER", help="write small copies of the videos there"
    )
    parser.add_argument(
        "--short-side", type=int, default=256, help="short side of the copies, in pixels"
    )
    parser.add_argument("--gop", type=int, default=12, help="frames between two keyframes")
    parser.add_argument("--crf", type=int, default=18, help="quality: lower is better and larger")
    parser.add_argument("--workers", type=at_least(1), default=2, help="processes")
    parser.add_argument("--timeout", type=at_least(1), default=300, help="seconds for one file")
    parser.add_argument(
        "--every-frame", action="store_true", help="decode every frame, not only three of each file"
    )
    parser.add_argument(
        "--relative",
        action="store_true",
        help="write paths relative to --out, so that all can be moved together",
    )
    args = parser.parse_args(words)
    if bool(args.annotations) != bool(args.videos):
        parser.error("--annotations and --videos go together")
    lists = {(args.out / f"{split}.csv").resolve() for split in ("train", "val", "test")}
    if any(path.resolve() in lists for path in args.annotations or ()):
        parser.error(f"--out {args.out} would overwrite the annotations: choose another folder")
    return args


def run(args: argparse.Namespace) -> int:
    from octvideo.data.labels import class_names
    from octvideo.data.prepare import dataset as prepare
    from octvideo.data.prepare.reencode import Encoding

    names = class_names(args.class_names) if args.class_names else None
    if args.tree:
        plan = prepare.plan_of_tree(args.tree, names, args.layout)
    else:
        plan = prepare.plan_of_annotations(args.annotations, args.videos, names)
    if args.val or args.test:
        plan.videos = prepare.draw_splits(plan.videos, args.val, args.test, args.seed)
    counts = prepare.prepare(
        plan,
        args.out,
        Encoding(args.short_side, args.gop, args.crf),
        args.reencode,
        prepare.Work(args.workers, args.timeout, args.every_frame),
        args.relative,
    )
    for name, count in counts.items():
        file = "bad_videos.csv" if name == "bad" else f"{name}.csv"
        say(f"{count:8} in {args.out / file}")
    classes = len(plan.names)
    say(f"{classes:8} classes: DATA.PATH_TO_DATA_DIR {args.out} MODEL.NUM_CLASSES {classes}")
    if not counts["val"]:
        print("val.csv is empty: --val 0.1 takes a tenth of the training videos for it")
    return 0


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)
    escape_warnings()
    return exit_status(
        lambda: args.work(args), (ValueError, OSError), "interrupted; the same command resumes"
    )
