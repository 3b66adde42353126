#!/usr/bin/env python3
"""Tells what happens in videos.

    python tools/predict.py --model i3d_8x8_r50_k400_pysf clip.mp4
    python tools/predict.py --cfg configs/Synthetic/OCT_I3D.yaml --checkpoint FILE.pyth a.mp4 b.mp4

A video that cannot be read, or whose scores are nan or inf, is named, the others are done, and the
exit status is 1.
"""

import argparse
import json
import sys

import check_install  # noqa: F401

from octvideo.cli.options import at_least, load_model, model_options, video_options, videos_of
from octvideo.utils.console import escape_warnings, printable, say
from octvideo.utils.errors import UserError
from octvideo.utils.memory import advice_when_out_of_memory


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[model_options(), video_options()],
    )
    parser.add_argument(
        "--topk",
        type=at_least(1),
        default=5,
        help="classes to print of a video; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument(
        "--class-names", metavar="FILE", help="text or JSON file, or kinetics400 or kinetics600"
    )
    return parser.parse_args(argv)


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


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    escape_warnings()
    try:
        advice = f"lower --batch-size, {args.batch_size}, or use --device cpu"
        with advice_when_out_of_memory("the network", advice):
            return run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
