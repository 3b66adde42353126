#!/usr/bin/env python3
"""Writes what the last layer of a model sees, for many videos.

    python tools/extract_features.py --model i3d_8x8_r50_k400_pysf --out features *.mp4
    python tools/extract_features.py --cfg A.yaml --checkpoint FILE.pyth --list test.csv --out f.npz

--out FOLDER: an .npz a video (features, path). --out FILE.npz: one file of all (features, paths).
The same command takes an interrupted run up again. Videos that can not be read are named, and the
exit status is 1.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import check_install  # noqa: F401

from octvideo.cli.options import (
    at_least,
    load_model,
    model_name,
    model_options,
    video_options,
    videos_of,
)
from octvideo.utils.console import escape_warnings, printable, say
from octvideo.utils.errors import UserError
from octvideo.utils.memory import advice_when_out_of_memory


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[model_options(), video_options()],
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER|FILE.npz")
    parser.add_argument("--per-view", action="store_true", help="(views, C), not their mean (C,)")
    parser.add_argument(
        "--workers",
        type=at_least(0),
        default=1,
        help="processes that decode; with 0, what hangs or crashes the decoder does so to the tool",
    )
    parser.add_argument("--timeout", type=at_least(1), default=120, help="seconds for one video")
    parser.add_argument(
        "--sampling-rate",
        type=at_least(1),
        help="distance of a clip's frames, if the model does not know",
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    videos = videos_of(args)
    model = load_model(args)
    from octvideo.api.features import extract_all
    from octvideo.api.views import ViewSettings

    settings = ViewSettings.of_model(model, args.sampling_rate)
    partial = args.allow_partial or settings.allow_partial
    bad = extract_all(
        videos,
        model,
        replace(settings, allow_partial=partial),
        args.out,
        model_name=model_name(args),
        fast=args.fast,
        per_view=args.per_view,
        batch_size=args.batch_size,
        num_workers=args.workers,
        timeout=args.timeout,
    )
    say(f"{len(set(videos)) - len(bad)} videos done, {len(bad)} without features: {args.out}")
    for video, reason in bad:
        say(f"error: {printable(video)}: {printable(reason)}", sys.stderr)
    return 1 if bad else 0


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    escape_warnings()
    try:
        advice = f"lower --batch-size, {args.batch_size}, or use --device cpu"
        with advice_when_out_of_memory("the network", advice):
            return run(args)
    except KeyboardInterrupt:
        print("interrupted; the same command takes it up again", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
