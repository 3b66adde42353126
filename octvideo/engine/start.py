"""The start of every run: checks, output folder, log, seed and device."""

import logging
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import check_machine, dump, train_precision
from octvideo.config.published import library_of
from octvideo.data import read_split
from octvideo.distributed.collectives import local_rank, on_all, on_main, rank
from octvideo.distributed.launcher import process_device
from octvideo.distributed.launcher_env import processes_of
from octvideo.engine.log import environment_report, setup_logging
from octvideo.engine.precision import check_device, prepare_device, warn_of_faults
from octvideo.models import build_model
from octvideo.utils.errors import UserError
from octvideo.utils.files import write_whole
from octvideo.weights.download import is_address
from octvideo.weights.pretrained import weights_file
from octvideo.weights.zoo import zoo_address

logger = logging.getLogger("octvideo")

Build = Callable[[CfgNode], nn.Module]  # makes the network of a configuration


def check_run(cfg: CfgNode, build: Build = build_model) -> None:
    """Finds what would end a run of ``cfg`` before any work, in seconds; it writes nothing.

    Raises:
        UserError: the machine lacks what the run asks for (devices, bf16, a compiler), the network
            cannot be built, a list of videos is missing or wrong, or a file that ``cfg`` names does
            not exist.
    """
    check_machine(cfg, torch.cuda.device_count(), processes_of(cfg))
    with torch.device("meta"):
        build(cfg)
    compiled = [name for name in ("TRAIN", "TEST") if cfg[name].ENABLE and cfg[name].COMPILE]
    check_device(cfg.NUM_GPUS > 0, _precisions(cfg), compiled)
    splits = {"train": cfg.TRAIN.ENABLE, "test": cfg.TEST.ENABLE}
    splits["val"] = validates = cfg.TRAIN.ENABLE and cfg.TRAIN.EVAL_PERIOD > 0
    for split in (name for name, needed in splits.items() if needed):
        read_split(cfg, split)
    for section in (name for name in ("TRAIN", "TEST") if cfg[name].ENABLE):
        path = cfg[section].CHECKPOINT_FILE_PATH
        is_made_here = cfg.TRAIN.ENABLE and Path(cfg.OUTPUT_DIR) in Path(path).parents
        # Downloaded when it is read.
        is_remote = is_address(path) or bool(zoo_address(path)[0]) or library_of(path) is not None
        is_here = is_remote or weights_file(Path(path).expanduser()).is_file()
        if path and not is_made_here and not is_here:
            raise UserError(
                f"{section}.CHECKPOINT_FILE_PATH: there is no file {path}, nor is it a name of "
                "octvideo.list_pretrained()"
            )
    wants_best = cfg.TEST.ENABLE and cfg.TEST.CHECKPOINT == "best"
    if wants_best and cfg.TRAIN.ENABLE and not validates and not cfg.TEST.CHECKPOINT_FILE_PATH:
        raise UserError(
            "TEST.CHECKPOINT is best, but TRAIN.EVAL_PERIOD 0 validates nothing: set it above 0, "
            "or TEST.CHECKPOINT last"
        )
    results = Path(cfg.OUTPUT_DIR) / cfg.TEST.SAVE_RESULTS_PATH
    if cfg.TEST.ENABLE and cfg.TEST.SAVE_RESULTS_PATH and results.is_dir():
        raise UserError(f"TEST.SAVE_RESULTS_PATH: {results} is a folder; name a file")


def start_run(cfg: CfgNode) -> torch.device:
    """Checks the machine, opens the log, seeds, and returns the device of this process.

    Raises:
        ConfigError: the configuration asks for devices that are not there.
        UserError: OUTPUT_DIR cannot be written. Raised on all processes.
    """
    check_machine(cfg, torch.cuda.device_count(), processes_of(cfg))
    output_dir = Path(cfg.OUTPUT_DIR)
    on_all(lambda: _write(output_dir, lambda: setup_logging(output_dir)))
    random.seed(cfg.RNG_SEED)
    np.random.seed(cfg.RNG_SEED)
    torch.manual_seed(cfg.RNG_SEED + rank())  # dropout; the weights of rank 0 are everybody's
    device = process_device(cfg.NUM_GPUS > 0, local_rank())
    logger.info(environment_report(device))
    prepare_device(device, cfg.MODEL.FOLD_CONV3D, cfg.CUDNN_BENCHMARK, cfg.ALLOW_TF32)
    precision = train_precision(cfg) if cfg.TRAIN.ENABLE else ""
    warn_of_faults(device, _precisions(cfg).values(), precision, _has_short_clips(cfg))
    logger.info("Output goes to %s", output_dir)
    return device


def write_config(cfg: CfgNode, name: str = "config.yaml") -> None:
    """Writes the whole configuration into OUTPUT_DIR, once it is certain that the run may begin.

    config.yaml belongs to the training run, which may still be going while another process tests.
    """
    output_dir = Path(cfg.OUTPUT_DIR)
    path = output_dir / name
    logger.info("The whole configuration is in %s", path)
    on_main(lambda: _write(output_dir, lambda: write_whole(path, dump(cfg))))


def _write(output_dir: Path, function: Callable[[], object]) -> None:
    try:
        function()
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {output_dir} cannot be written: {error.strerror}; set another OUTPUT_DIR"
        ) from error


def _precisions(cfg: CfgNode) -> dict[str, str]:
    """Returns the precision of what is enabled, by its key."""
    train = "TRAIN.MIXED_PRECISION" if cfg.TRAIN.MIXED_PRECISION else "TRAIN.PRECISION"
    keys = {train: train_precision(cfg)} if cfg.TRAIN.ENABLE else {}
    return {**keys, **({"TEST.PRECISION": cfg.TEST.PRECISION} if cfg.TEST.ENABLE else {})}


def _has_short_clips(cfg: CfgNode) -> bool:
    """Returns whether a kernel may be longer in time than its input: 5 frames at the stem, 3 later.

    The later kernels are 2D convolutions with MODEL.FOLD_CONV3D.
    """
    frames, arch = cfg.DATA.NUM_FRAMES, cfg.MODEL.ARCH
    stem = arch in ("i3d", "slow_i3d", "slowfast", "x3d") and frames < 6
    stem = stem or (arch == "csn" and frames < 24)  # it strides by 8 before the last
    fewest = frames // cfg.SLOWFAST.ALPHA if arch == "slowfast" else frames
    return stem or (not cfg.MODEL.FOLD_CONV3D and arch not in ("c2d", "slow_c2d") and fewest < 3)
