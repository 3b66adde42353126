"""Recognises what happens in videos, and prints the classes with the highest scores.

    octvideo predict --model i3d_8x8_r50_k400_pysf clip.mp4
    octvideo predict --checkpoint runs/mine a.mp4 b.mp4

Videos that cannot be read, or whose scores are nan or inf, are reported and skipped; the exit
status is then 1.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from octvideo.cli.options import (
    at_least,
    load_model,
    new_model_parser,
    run_model,
    videos_of,
)
from octvideo.utils.console import printable, say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_model_parser(__doc__, prog)
    add = parser.add_argument
    add("--topk", type=at_least(1), default=5, help="classes to print; default: %(default)s")
    add("--json", action="store_true", help="print one JSON object a video")
    add("--class-names", metavar="FILE", help="text or JSON file, or kinetics400 or kinetics600")
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    videos = videos_of(args)
    model = load_model(args)
    from octvideo.api.predict import predict
    from octvideo.data import VideoError
    from octvideo.utils.errors import NonFiniteError

    status = 0
    for video in videos:
        try:
            best = predict(
                video,
                model,
                fast=args.fast,
                topk=args.topk,
                class_names=args.class_names,
                batch_size=args.batch_size,
                allow_partial=args.allow_partial,
            )
        except (VideoError, NonFiniteError) as error:
            say(f"error: {error}", sys.stderr)
            status = 1
            continue
        if args.json:
            print(json.dumps({"video": video, "scores": best}), flush=True)
        else:
            lines = [f"  {100 * score:6.2f} %  {label}" for label, score in best]
            say("\n".join([printable(video), *lines]))
    return status


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    return run_model(parse_args(words, prog), run, "interrupted")
