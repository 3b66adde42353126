"""Studies of the paper on a network.

    python tools/analyze.py frequency --network resnet50_v2 --alpha .25 [--weights FILE]
        --layer s3.pathway0_res0 [--data FOLDER] --out spectra

frequency: mean energy spectra of the high and the low channels of a layer (Fig. 4 of "Drop an
Octave"), for the images or videos of a folder, or for random edges. Writes spectra.npz and, with
matplotlib, spectra.png.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.options import at_least, exit_status, new_parser
from octvideo.utils.console import say
from octvideo.utils.errors import UserError
from octvideo.utils.extras import install_command


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    frequency = commands.add_parser("frequency", help="energy spectra of a layer")
    add = frequency.add_argument
    add("--network", metavar="NAME", help="a name of octvideo.list_models()")
    add(
        "--alpha",
        type=float,
        default=None,
        metavar="A",
        help="octave share of --network; default: 0",
    )
    add("--weights", metavar="FILE", help="weights of --network; default: random")
    add("--cfg", metavar="FILE", help="configuration, instead of --network; needs --checkpoint")
    add("--checkpoint", metavar="FILE", help="weights for --cfg")
    add("--layer", required=True, metavar="NAME", help="such as s3.pathway0_res0")
    add("--data", type=Path, metavar="FOLDER", help="images or videos; default: random edges")
    add("--limit", type=at_least(1), default=64, metavar="N", help="files; default: 64")
    add("--size", type=at_least(32), metavar="S", help="side of the crop")
    add("--out", type=Path, required=True, metavar="PATH", help="without .npz or .png")
    frequency.set_defaults(run=run_frequency)
    return parser.parse_args(words)


def run_frequency(args: argparse.Namespace) -> int:
    if bool(args.network) == bool(args.cfg) or bool(args.cfg) != bool(args.checkpoint):
        raise UserError("give --network NAME, or --cfg FILE and --checkpoint FILE")
    from octvideo.api.create import create_model
    from octvideo.api.loading import load_trained
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
    return 0


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)
    return exit_status(lambda: int(args.run(args)), (ValueError, OSError))
