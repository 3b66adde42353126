#!/usr/bin/env python3
"""Converts a checkpoint of another project to octvideo's format.

    python tools/convert_checkpoint.py I3D_8x8_R50.pkl I3D_8x8_R50.pyth \\
        --cfg configs/Kinetics/I3D_8x8_R50.yaml
    python tools/convert_checkpoint.py a03_resnet-50_alpha-0.125.tar r50.pyth --from mxnet

The result has model_state, epoch, cfg, class_names where the file has them, and source: name,
SHA-256 and kind of the file that it was made from. Of a file of MXNet it has its low channels too,
and the tool tells which network that is. With --cfg the parameters are checked against
the model of a configuration; --inflate spreads the kernels of a 2D network over the frames of its
kernels. Of a training with EMA, the average of the weights is taken, as a test takes it. Nothing
in the file is run.
"""

import argparse
import sys
from pathlib import Path

import check_install  # noqa: F401

from octvideo.api.identify import alpha_of, network_of
from octvideo.config import dump, load_cfg
from octvideo.engine import save_checkpoint
from octvideo.models import build_model
from octvideo.utils.console import say
from octvideo.utils.errors import UserError
from octvideo.weights import (
    KINDS,
    Weights,
    inflate_kernels,
    load_into,
    read_weights,
    sha256_of,
    verify_sha256,
)
from octvideo.weights.zoo import zoo_entries

ALPHA = "octave_alpha"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="file to convert")
    parser.add_argument("result", type=Path, help="file to write, *.pyth")
    parser.add_argument(
        "--from", dest="kind", choices=KINDS, default="auto",
        help="kind of the source (timm's files: torchvision); it is recognised by default",
    )  # fmt: skip
    parser.add_argument("--sha256", help="SHA-256 that the source must have, or its beginning")
    parser.add_argument(
        "--clear-names", action="append", default=[], metavar="TEXT",
        help="a text to remove from the names in the file, may be repeated; usual prefixes are "
        "recognised",
    )  # fmt: skip
    parser.add_argument("--cfg", metavar="FILE", help="YAML file of a model that it must fit")
    parser.add_argument("--inflate", action="store_true", help="of a 2D network; needs --cfg")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the file"
    )
    args = parser.parse_args(argv)
    if args.inflate and not args.cfg:
        parser.error("--inflate needs --cfg: the model's kernels say over how many frames")
    return args


def convert(args: argparse.Namespace) -> None:
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
        tell_network(weights, args.result)
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


def tell_network(weights: Weights, result: Path) -> None:
    """Which network the file is of, and what makes it."""
    name = network_of(weights)
    alpha = alpha_of(weights, name) if name else None
    if alpha is None:
        print("network not known: name its configuration with --cfg")
        return
    file = result if result.is_absolute() else f"./{result}"
    say(f"network {name}, alpha {alpha:g}\n        create_model({name!r}, pretrained='{file}')")
    configs = [e.config for e in zoo_entries() if e.model == name and e.options.get(ALPHA) == alpha]
    if configs:
        print(f"        configs/{configs[0]}.yaml")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        convert(args)
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
