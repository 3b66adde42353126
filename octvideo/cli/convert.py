"""Converts a checkpoint of another project to octvideo's format.

    octvideo convert I3D_8x8_R50.pkl I3D_8x8_R50.pyth --cfg Kinetics/I3D_8x8_R50
    octvideo convert a03_resnet-50_alpha-0.125.tar r50.pyth --from mxnet

The result holds model_state, epoch, cfg, class_names if the file has them, and source (name,
SHA-256 and kind of the original file); and spec, the record of the network, where the file, --cfg
or, of an MXNet file, its layers say it. From an MXNet file it also keeps the numbers of low
channels. --cfg checks the parameters against the network of a configuration; --inflate spreads the
kernels of a 2D network over the frames of its kernels. The averaged weights of an EMA run are
preferred, as in a test. No code in the file is run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.cli.options import exit_status, new_parser
from octvideo.utils.console import say
from octvideo.utils.errors import UserError

if TYPE_CHECKING:
    from octvideo.data import Protocol
    from octvideo.models.build import Spec

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
    from octvideo.models.build import with_options
    from octvideo.models.external import ExternalNetwork
    from octvideo.utils.plain import to_plain
    from octvideo.weights import inflate_kernels, load_into, read_weights, sha256_of, verify_sha256
    from octvideo.weights.load import HEAD, head_of
    from octvideo.weights.trained import spec_of_layers, spec_of_text

    if args.result.exists() and args.source.exists() and args.result.samefile(args.source):
        raise UserError(f"{args.result} is the source itself: name another file for the result")
    cfg = load_cfg(args.cfg, args.opts) if args.cfg else None
    if args.sha256:
        verify_sha256(args.source, args.sha256)
    cleared = [*args.clear_names, *(cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN if cfg else ())]
    weights = read_weights(args.source, args.kind, cleared, average=True)
    digest = sha256_of(args.source)
    say(f"source  {args.source}  {weights.kind}, {len(weights.state)} entries\n        {digest}")
    state, spec, protocol = weights.state, weights.spec, weights.protocol
    cfg_text, bias = weights.cfg or "", state.get(f"{HEAD}bias")
    if weights.low_channels is not None:
        spec = spec or spec_of_layers(weights)
        protocol = show_network(spec, args.result) or protocol
    if cfg is not None:
        model = build_model(cfg)
        if isinstance(model, ExternalNetwork):  # its names are its project's
            shapes = {key: value.shape for key, value in model.state_dict().items()}
            state = weights.for_network(shapes, is_external=True)
            bias = state.get(f"{head_of(model)}bias")
        report = load_into(model, weights, finetune=True, inflate=args.inflate)
        say(f"model   {args.cfg}  {report}")
        if args.inflate:  # what the file says is of the 2D network
            spec, protocol, cfg_text = None, None, ""
            shapes = {key: value.shape for key, value in model.state_dict().items()}
            state = inflate_kernels(state, shapes)
        if not cfg_text:  # the last layer is the file's
            classes = [] if bias is None else ["MODEL.NUM_CLASSES", len(bias)]
            cfg_text = dump(load_cfg(args.cfg, [*args.opts, *classes]))
    spec = spec or spec_of_text(cfg_text)
    beside = {
        "spec": spec and with_options(spec, None if bias is None else len(bias)).to_dict(),
        "protocol": protocol and to_plain(protocol),
        "class_names": weights.class_names,
        "low_channels": weights.low_channels,
    }
    content: dict[str, object] = {
        "model_state": {key: value.clone() for key, value in state.items()},
        "epoch": -1 if weights.epoch is None else weights.epoch,
        "cfg": cfg_text,
        "source": {"name": args.source.name, "sha256": digest, "kind": weights.kind},
        **{key: value for key, value in beside.items() if value is not None},
    }
    save_checkpoint(args.result, content)
    say(f"result  {args.result}\n        {sha256_of(args.result)}")
    return 0


def show_network(spec: "Spec | None", result: Path) -> "Protocol | None":
    """Prints which of the authors' networks a file is of; returns how they looked at images."""
    from octvideo.api.protocols import protocol_of_entry
    from octvideo.models.build import name_of
    from octvideo.weights.zoo import zoo_entries

    if spec is None:
        print("network not known: name its configuration with --cfg")
        return None
    name, alpha = name_of(spec), spec.octave.alpha
    file = result if result.is_absolute() else f"./{result}"
    say(f"network {name}, alpha {alpha:g}\n        create_model({name!r}, pretrained='{file}')")
    entries = [e for e in zoo_entries() if e.model == name and e.is_image_network]
    for entry in (e for e in entries if e.options == {"octave_alpha": alpha}):
        print(f"        configs/{entry.config}.yaml")
    return protocol_of_entry(entries[0]) if entries else None


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse_args(words, prog)
    return exit_status(lambda: convert(args))
