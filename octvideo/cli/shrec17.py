"""Makes clips and lists of SHREC'17 hand gestures from the official download.

    octvideo prepare shrec17 HandGestureDataset_SHREC2017 --out data/shrec17

Each recording of depth images becomes a clip of the hand's box. The official test is test.csv;
two people of the official training part are val.csv. DATASET.md says where the data come from and
what they may be used for. After an interruption the same command resumes.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.options import at_least, new_parser
from octvideo.utils.console import say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    parser.add_argument("download", type=Path, help="folder with gesture_1 ... and the two lists")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to fill")
    parser.add_argument("--frames", type=at_least(2), default=32, help="of a clip; default: 32")
    parser.add_argument("--size", type=at_least(8), default=50, help="pixels a side; default: 50")
    parser.add_argument("--workers", type=at_least(1), default=2, help="processes")
    parser.set_defaults(work=run)
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    from octvideo.data.prepare.shrec17 import Shape, prepare_shrec17

    shape = Shape(args.frames, args.size)
    counts = prepare_shrec17(args.download, args.out, shape, args.workers)
    for name, count in counts.items():
        say(f"{count:8} in {args.out / ('bad_videos.csv' if name == 'bad' else f'{name}.csv')}")
    folder = shlex.quote(str(args.out))
    say(f"Next: octvideo run --cfg SHREC17/I3D_CPU --opts DATA.PATH_TO_DATA_DIR {folder}")
    return 0
