"""What every run does first: the output folder, the log, the seed and the device."""

import logging
import random
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode

from octvideo.config import check_machine, dump
from octvideo.utils.dist import is_main, rank
from octvideo.utils.errors import UserError
from octvideo.utils.log import environment_report, setup_logging

logger = logging.getLogger("octvideo")


def start_run(cfg: CfgNode) -> torch.device:
    """Checks the machine, opens the log, seeds, and returns the device of this process.

    The configuration is written to ``OUTPUT_DIR/config.yaml``.

    Raises:
        ConfigError: the configuration asks for devices or worlds that are not there.
        UserError: OUTPUT_DIR can not be written.
    """
    check_machine(cfg, torch.cuda.device_count())
    output_dir = Path(cfg.OUTPUT_DIR)
    try:
        setup_logging(output_dir)
        if is_main():
            (output_dir / "config.yaml").write_text(dump(cfg))
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {output_dir} can not be written: {error.strerror}; set another OUTPUT_DIR"
        ) from error
    random.seed(cfg.RNG_SEED)
    np.random.seed(cfg.RNG_SEED)
    torch.manual_seed(cfg.RNG_SEED + rank())  # dropout; the weights of rank 0 are everybody's
    device = torch.device("cuda" if cfg.NUM_GPUS else "cpu")
    logger.info(environment_report(device))
    logger.info("Output goes to %s, the whole configuration to its config.yaml", output_dir)
    return device
