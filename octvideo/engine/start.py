"""What every run does first: the output folder, the log, the seed and the device."""

import logging
import random
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode

from octvideo.config import check_machine, describe_scaling, dump
from octvideo.utils.dist import rank
from octvideo.utils.log import environment_report, setup_logging

logger = logging.getLogger("octvideo")


def start_run(cfg: CfgNode) -> torch.device:
    """Checks the machine, opens the log, seeds, and returns the device of this process.

    Raises:
        ConfigError: the configuration asks for devices or worlds that are not there.
        OSError: OUTPUT_DIR can not be written.
    """
    check_machine(cfg, torch.cuda.device_count())
    setup_logging(Path(cfg.OUTPUT_DIR))
    device = (
        torch.device("cuda", torch.cuda.current_device()) if cfg.NUM_GPUS else torch.device("cpu")
    )
    random.seed(cfg.RNG_SEED)
    np.random.seed(cfg.RNG_SEED)
    torch.manual_seed(cfg.RNG_SEED + rank())  # dropout; the weights of rank 0 are everybody's
    logger.info(environment_report(device))
    if cfg.TRAIN.ENABLE:
        line, warning = describe_scaling(cfg)
        logger.info(line)
        if warning:
            logger.warning(warning)
    logger.info("Configuration:\n%s", dump(cfg))
    return device
