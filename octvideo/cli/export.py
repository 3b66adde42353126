"""Writes a trained network as a file that runs without octvideo.

    octvideo export --checkpoint runs/mine mine.onnx
    octvideo export --model i3d_8x8_r50_k400_pysf i3d.xml --inputs frames

The suffix names the format: .onnx (ONNX Runtime), .xml (OpenVINO) or .pt2 (torch.export). The file
is compared with the network in its own runtime before it gets its name. It knows its classes and
how it looks at a video: octvideo predict --checkpoint mine.onnx clip.mp4
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.options import add_source, exit_status, load_model, new_parser
from octvideo.utils.console import escape_warnings, say


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    add_source(parser)
    add = parser.add_argument
    add("file", help="file to write: *.onnx, *.xml or *.pt2")
    add("--format", choices=("onnx", "openvino", "pt2"), help="default: as the suffix says")
    add(
        "--inputs", choices=("clips", "frames", "pathways"), default="clips",
        help="normalised clips (default); uint8 frames N T H W 3; or SlowFast's two clips",
    )  # fmt: skip
    add("--logits", action="store_true", help="scores before softmax or sigmoid")
    add("--features", action="store_true", help="a second output: what the last layer sees")
    add("--crop-size", type=int, help="side of the clips; default: that of the test")
    add(
        "--dynamic-size", action="store_true",
        help="onnx, openvino: clips of any size, from the crop size on",
    )  # fmt: skip
    add("--licence", default="", metavar="TEXT", help="kept in the file")
    add("--tolerance", type=float, default=1e-4, help="largest difference; default: %(default)s")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in --cfg")
    return parser.parse_args(words)


def run(args: argparse.Namespace) -> int:
    from octvideo.deploy.files import format_of

    format_of(args.file, args.format)  # before the network is loaded
    args.device = "cpu"
    source = Path(args.model or args.checkpoint or "").name  # which loading changes
    model = load_model(args)
    from octvideo.api.exporting import export

    difference = export(
        model,
        args.file,
        args.format,
        inputs=args.inputs,
        logits=args.logits,
        features=args.features,
        crop_size=args.crop_size,
        dynamic_size=args.dynamic_size,
        licence=args.licence,
        source=source,
        tolerance=args.tolerance,
    )
    say(f"{args.file}: largest difference from the network {difference:.1e}")
    return 0


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    escape_warnings()
    args = parse_args(words, prog)
    return exit_status(lambda: run(args))
