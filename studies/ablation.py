"""Trains, tests or counts a network with a variant of the octave convolution.

    python -m studies.ablation --cfg Kinetics/OCT_I3D_8x8 --downsample max --opts NUM_GPUS 8
    python -m studies.ablation --cfg Synthetic/OCT_I3D --paths no_l2h --count

Takes the options of `octvideo run` and those of the variant (see `Ablation`).
The run writes to a folder of the variant's name in OUTPUT_DIR, so that no run resumes from the
checkpoint of another variant. --count only prints multiply-adds, parameters and activations.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fvcore.common.config import CfgNode

from octvideo.cli import run
from octvideo.cli.options import exit_status, new_parser
from octvideo.distributed.signals import leave_when_preempted
from octvideo.utils.console import escape_warnings
from octvideo.utils.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from octvideo.engine.start import Build


def parse_args(
    words: Sequence[str] | None = None, prog: str | None = None
) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Returns the options of the variant, and those of the run."""
    parser = new_parser(__doc__, prog)
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--downsample", choices=("avg", "max", "strided_conv"), default="avg", help="default: avg")
    add("--upsample-first", action="store_true", help="upsample L before its convolution to H")
    add("--paths", choices=("both", "no_h2l", "no_l2h"), default="both", help="default: both")
    add("--count", action="store_true", help="print the complexity instead of running")
    args, of_run = parser.parse_known_args(words)
    return args, run.parse_args(of_run, prog)


def build_variant(cfg: CfgNode, downsample: str, upsample_first: bool, paths: str) -> "nn.Module":
    """Returns the network of a configuration with a variant of its octave convolutions."""
    from octvideo.models import build_model
    from studies.ablations import Ablation, ablate

    model = build_model(cfg)
    ablate(model, Ablation(downsample, upsample_first, paths))
    return model


def read(args: argparse.Namespace, of_run: argparse.Namespace) -> list[CfgNode]:
    """Returns the configurations of the run, each with the folder of the variant as OUTPUT_DIR.

    Raises:
        UserError: a configuration is not sound, or its network is not octave.
    """
    parts = [args.downsample, args.paths] + (["upsample_first"] if args.upsample_first else [])
    configurations = run.read(of_run)
    for cfg in configurations:
        if not (cfg.OCTAVE.ENABLE and cfg.OCTAVE.ALPHA):
            raise UserError("OCTAVE.ENABLE is False: there is no octave convolution to vary")
        cfg.defrost()
        cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "-".join(parts))
        cfg.freeze()
    return configurations


def print_counts(configurations: Sequence[CfgNode], build: "Build") -> int:
    """Prints the complexity of each network, at the training crop."""
    from octvideo.api.complexity import complexity_of, format_complexity

    for cfg in configurations:
        print(format_complexity(complexity_of(cfg, Path(cfg.OUTPUT_DIR).name, build)))
    return 0


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    leave_when_preempted()
    escape_warnings()
    args, of_run = parse_args(words, prog)
    build = partial(
        build_variant,
        downsample=args.downsample,
        upsample_first=args.upsample_first,
        paths=args.paths,
    )

    def work() -> int:
        if args.count:
            return print_counts(read(args, of_run), build)
        from octvideo.engine import launch

        return launch(lambda: read(args, of_run), of_run.init_method, build)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
