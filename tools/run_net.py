#!/usr/bin/env python3
"""Trains and tests a model on a video data set.

    python tools/run_net.py --cfg configs/Kinetics/OCT_I3D_8x8.yaml --opts NUM_GPUS 1

Several files run one after another; for each, TRAIN.ENABLE and TEST.ENABLE say what is done.
"""

import argparse
import logging
import sys
from functools import cache

import check_install  # noqa: F401
from fvcore.common.config import CfgNode

from octvideo.config import load_cfg
from octvideo.distributed.launcher_env import read_launcher_env
from octvideo.distributed.signals import leave_when_preempted
from octvideo.utils.console import escape_warnings
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")  # the log of a run; before there is one, the terminal


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cfg",
        nargs="+",
        required=True,
        metavar="FILE",
        help="YAML files; KEY VALUE pairs may follow them",
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, as in the files"
    )
    parser.add_argument(
        "--init_method",
        metavar="tcp://HOST:PORT",
        help="address of the first machine, if there are several without torchrun or SLURM",
    )
    parser.add_argument("--shard_id", type=int, help="number of this machine; default SHARD_ID")
    parser.add_argument("--num_shards", type=int, help="machines; default NUM_SHARDS")
    args, rest = parser.parse_known_args(argv)
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"unknown option {unknown[0]}")
    is_file = [word.endswith((".yaml", ".yml")) for word in args.cfg]
    num_files = is_file.index(False) if False in is_file else len(args.cfg)
    if not num_files:
        parser.error(f"--cfg takes a .yaml file, got {args.cfg[0]}")
    args.cfg, args.opts = args.cfg[:num_files], [*args.cfg[num_files:], *rest, *args.opts]
    for key, value in (("SHARD_ID", args.shard_id), ("NUM_SHARDS", args.num_shards)):
        if value is not None:
            args.opts += [key, str(value)]
    return args


def read(args: argparse.Namespace) -> list[CfgNode]:
    configurations = [load_cfg(path, args.opts) for path in args.cfg]
    folders = [cfg.OUTPUT_DIR for cfg in configurations]
    if len(set(folders)) < len(folders):
        raise UserError(f"each file needs an OUTPUT_DIR of its own, got {', '.join(folders)}")
    return configurations


def main() -> int:
    leave_when_preempted()
    escape_warnings()
    args = parse_args()
    load = cache(lambda: read(args))
    try:
        if read_launcher_env() is None:
            load()  # a mistyped key is told at once, before what takes seconds to import
    except UserError as error:
        logger.error("%s", error)
        return 2
    from octvideo.engine import launch

    return launch(load, args.init_method)


if __name__ == "__main__":
    sys.exit(main())
