"""Converts a checkpoint of another project to octvideo's format.

    octvideo convert I3D_8x8_R50.pkl I3D_8x8_R50.pyth --cfg Kinetics/I3D_8x8_R50
    octvideo convert a03_resnet-50_alpha-0.125.tar r50.pyth --from mxnet

The result holds model_state, epoch, cfg, class_names if the file has them, and source (name,
SHA-256 and kind of the original file). From an MXNet file it also keeps the numbers of low
channels, and the network is identified. --cfg checks the parameters against the network of a
configuration; --inflate spreads the kernels of a 2D network over the frames of its kernels. The
averaged weights of an EMA run are preferred, as in a test. No code in the file is run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.cli.options import exit_status, new_parser
from octvideo.utils.console import say
from octvideo.utils.errors import UserError

if TYPE_CHECKING:
    from octvideo.weights import Weights

ALPHA = "octave_alpha"
# Those of octvideo.weights, whose import would delay --help.
KINDS = (
    "auto",
    "pytorch",
    "caffe2",
    "mxnet",
    "octvideo",
    "pyslowfast",
    "pytorchvideo",
    "torchvision",
)


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    parser.add_argument("source", type=Path, help="file to convert")
    parser.add_argument("result", type=Path, help="file to write, *.pyth")
    parser.add_argument(
        "--from", dest="kind", choices=KINDS, default="auto",
        help="kind of the source (timm's files: torchvision); default: recognised from the file",
    )  # fmt: skip
    parser.add_argument(
        "--sha256", help="SHA-256 of the source, or the first digits of it, to be checked"
    )
    parser.add_argument(
        "--clear-names", action="append", default=[], metavar="TEXT",
        help="text to remove from the names in the file; can be repeated; the usual prefixes are "
        "recognised",
    )  # fmt: skip
    parser.add_argument(
        "--cfg", metavar="FILE", help="configuration of the network that it must fit"
    )
    parser.add_argument("--inflate", action="store_true", help="inflate a 2D network; needs --cfg")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the file"
    )
    args = parser.parse_args(words)
    if args.inflate and not args.cfg:
        parser.error("--inflate needs --cfg: the model's kernels say over how many frames")
    return args


def convert(args: argparse.Namespace) -> int:
    from octvideo.config import dump, load_cfg
    from octvideo.engine import save_checkpoint
    from octvideo.models import build_model
    from octvideo.weights import inflate_kernels, load_into, read_weights, sha256_of, verify_sha256

    if args.result.exists() and args.source.exists() and args.result.samefile(args.source):
        raise UserError(f"{args.result} is the source itself: name another file for the result")
    cfg = load_cfg(args.cfg, args.opts) if args.cfg else None
    if args.sha256:
        verify_sha256(args.source, args.sha256)
    cleared = [*args.clear_names, *(cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN if cfg else ())]
    weights = read_weights(args.source, args.kind, cleared, average=True)
    digest = sha256_of(args.source)
    say(f"source  {args.source}  {weights.kind}, {len(weights.state)} entries\n        {digest}")
    state = weights.state
    if weights.low_channels is not None:
        print_network(weights, args.result)
    if cfg is not None:
        model = build_model(cfg)
        report = load_into(model, weights, finetune=True, inflate=args.inflate)
        say(f"model   {args.cfg}  {report}")
        if args.inflate:
            state = inflate_kernels(
                state, {key: value.shape for key, value in model.state_dict().items()}
            )
    content = {
        "model_state": {key: value.clone() for key, value in state.items()},
        "epoch": -1 if weights.epoch is None else weights.epoch,
        "cfg": weights.cfg or (dump(cfg) if cfg is not None else ""),
        "source": {"name": args.source.name, "sha256": digest, "kind": weights.kind},
    }
    if weights.class_names:
        content["class_names"] = weights.class_names
    if weights.low_channels is not None:
        content["low_channels"] = weights.low_channels
    save_checkpoint(args.result, content)
    say(f"result  {args.result}\n        {sha256_of(args.result)}")
    return 0


def print_network(weights: "Weights", result: Path) -> None:
    """Prints the network that a file of MXNet belongs to, and how to create it."""
    from octvideo.models import named_spec
    from octvideo.weights.trained import alpha_of, name_of_layers
    from octvideo.weights.zoo import zoo_entries

    name = name_of_layers(weights)
    alpha = alpha_of(weights, named_spec(name)) if name else None
    if alpha is None:
        print("network not known: name its configuration with --cfg")
        return
    file = result if result.is_absolute() else f"./{result}"
    say(f"network {name}, alpha {alpha:g}\n        create_model({name!r}, pretrained='{file}')")
    configs = [e.config for e in zoo_entries() if e.model == name and e.options.get(ALPHA) == alpha]
    if configs:
        print(f"        configs/{configs[0]}.yaml")


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)
    return exit_status(lambda: convert(args))
