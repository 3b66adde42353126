"""Trains and tests a network.

    octvideo run --cfg Kinetics/OCT_I3D_8x8 --opts NUM_GPUS 1
    octvideo run --cfg my.yaml

A configuration is a YAML file, or the name of one that comes with octvideo. Several run one after
another; TRAIN.ENABLE and TEST.ENABLE of each say whether to train and whether to test.
"""

import argparse
import logging
from collections.abc import Sequence
from functools import cache

from fvcore.common.config import CfgNode

from octvideo.cli.options import new_parser
from octvideo.config import load_cfg
from octvideo.distributed.launcher_env import launched_processes
from octvideo.distributed.signals import leave_when_preempted
from octvideo.utils.console import escape_warnings
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")  # the terminal until the run has a log


def parse_args(words: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    parser.add_argument(
        "--cfg",
        nargs="+",
        required=True,
        metavar="FILE",
        help="YAML files or names of configurations; KEY VALUE pairs may follow",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs that override the files",
    )
    parser.add_argument(
        "--init_method",
        metavar="tcp://HOST:PORT",
        help="address of the first machine, for several machines without torchrun or SLURM",
    )
    parser.add_argument("--shard_id", type=int, help="number of this machine; default: SHARD_ID")
    parser.add_argument("--num_shards", type=int, help="number of machines; default: NUM_SHARDS")
    args, rest = parser.parse_known_args(words)
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"unknown option {unknown[0]}")
    is_file = [_is_configuration(word) for word in args.cfg]
    num_files = is_file.index(False) if False in is_file else len(args.cfg)
    if not num_files:
        parser.error(f"--cfg takes a .yaml file or a name with a slash, got {args.cfg[0]}")
    args.cfg, args.opts = args.cfg[:num_files], [*args.cfg[num_files:], *rest, *args.opts]
    for key, value in (("SHARD_ID", args.shard_id), ("NUM_SHARDS", args.num_shards)):
        if value is not None:
            args.opts += [key, str(value)]
    return args


def _is_configuration(word: str) -> bool:
    """Returns whether a word after --cfg is a file or a name of a configuration, not a key."""
    return word.endswith((".yaml", ".yml")) or ("/" in word and "=" not in word)


def read(args: argparse.Namespace) -> list[CfgNode]:
    """Returns the configurations that the command line names.

    Raises:
        UserError: one of them is not sound, or two of them share an OUTPUT_DIR.
    """
    configurations = [load_cfg(path, args.opts, launched_processes()) for path in args.cfg]
    folders = [cfg.OUTPUT_DIR for cfg in configurations]
    if len(set(folders)) < len(folders):
        raise UserError(f"each file needs an OUTPUT_DIR of its own, got {', '.join(folders)}")
    return configurations


def main(words: Sequence[str] | None = None, prog: str | None = None) -> int:
    leave_when_preempted()
    escape_warnings()
    args = parse_args(words, prog)
    load = cache(lambda: read(args))
    try:
        if launched_processes() is None:
            load()  # report a mistyped key before the imports, which take seconds
    except UserError as error:
        logger.error("%s", error)
        return 2
    from octvideo.engine import launch

    return launch(load, args.init_method)
