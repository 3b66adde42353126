#!/usr/bin/env python3
"""Studies of the paper on a network.

    python tools/analyze.py frequency --network resnet50_v2 --alpha .25 [--weights FILE]
        --layer s3.pathway0_res0 [--data FOLDER] --out spectra

frequency: mean energy spectra of the high and the low channels of a layer (Fig. 4 of "Drop an
Octave"), for the pictures or videos of a folder, or for random edges. Writes spectra.npz and, with
matplotlib, spectra.png.
"""

import argparse
import sys
from pathlib import Path

import check_install  # noqa: F401

from octvideo.cli.options import at_least
from octvideo.utils.console import say
from octvideo.utils.errors import UserError
from octvideo.utils.extras import install_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    frequency = commands.add_parser("frequency", help="energy spectra of a layer")
    add = frequency.add_argument
    add("--network", metavar="NAME", help="of octvideo.list_models(), with --alpha, --weights")
    add("--alpha", type=float, default=None, metavar="A", help="of --network; default: 0")
    add("--weights", metavar="FILE", help="of --network; without: random ones")
    add("--cfg", metavar="FILE", help="instead of --network: configuration, with --checkpoint")
    add("--checkpoint", metavar="FILE", help="weights for --cfg")
    add("--layer", required=True, metavar="NAME", help="such as s3.pathway0_res0")
    add("--data", type=Path, metavar="FOLDER", help="pictures or videos; without: random edges")
    add("--limit", type=at_least(1), default=64, metavar="N", help="files; default: 64")
    add("--size", type=at_least(32), metavar="S", help="side of the crop")
    add("--out", type=Path, required=True, metavar="PATH", help="without .npz or .png")
    frequency.set_defaults(run=run_frequency)
    return parser.parse_args(argv)


def run_frequency(args: argparse.Namespace) -> None:
    if bool(args.network) == bool(args.cfg) or bool(args.cfg) != bool(args.checkpoint):
        raise UserError("give --network NAME, or --cfg FILE and --checkpoint FILE")
    from octvideo.api.create import create_model, load_trained
    from studies.frequency import inputs_of, layer_spectra, write_spectra

    if args.cfg:
        model = load_trained(args.cfg, args.checkpoint)
    else:
        weights = str(Path(args.weights).resolve()) if args.weights else None
        model = create_model(args.network, octave_alpha=args.alpha, pretrained=weights)
    inputs = inputs_of(model, args.data, args.limit, args.size)
    spectra = layer_spectra(model, args.layer, inputs)
    paths = write_spectra(spectra, args.layer, args.out)
    say(f"{spectra['inputs']} inputs: {', '.join(map(str, paths))}")
    if len(paths) == 1:
        say(f"no spectra.png: {install_command('plot')}", sys.stderr)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        args.run(args)
    except (UserError, ValueError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
