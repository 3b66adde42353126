"""Writes the features that enter the last layer of a network, for many videos.

    octvideo features --model i3d_8x8_r50_k400_pysf --out features *.mp4
    octvideo features --checkpoint runs/mine --list test.csv --out features.npz

--out FOLDER writes one .npz for each video (features, path), --out FILE.npz one for all of them
(features, paths). After an interruption the same command resumes. Videos that cannot be read are
reported; the exit status is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from octvideo.cli.options import (
    at_least,
    load_model,
    model_name,
    new_model_parser,
    run_model,
    videos_of,
)
from octvideo.utils.console import printable, say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_model_parser(__doc__, prog)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER|FILE.npz")
    parser.add_argument(
        "--per-view", action="store_true", help="store (views, C) instead of the mean (C,)"
    )
    parser.add_argument(
        "--workers",
        type=at_least(0),
        default=1,
        help="decoding processes; with 0, a video that crashes the decoder ends the command",
    )
    parser.add_argument(
        "--timeout",
        type=at_least(1),
        default=120,
        help="seconds for one video; default: %(default)s",
    )
    parser.add_argument(
        "--sampling-rate",
        type=at_least(1),
        help="distance between the frames of a clip, if the model does not store it",
    )
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    videos = videos_of(args)
    model = load_model(args)
    from octvideo.api.features import extract_all
    from octvideo.api.protocols import protocol_of

    settings = protocol_of(model, args.sampling_rate)
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


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    return run_model(parse_args(words, prog), run, "interrupted; the same command resumes")
