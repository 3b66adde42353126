"""Configuration: the tree of defaults, reading, and checks.

``load_cfg`` gives the frozen tree that a run uses. Values that follow from it (batch sizes,
learning rates) are functions of it and are never written back.
"""

from octvideo.config.checks import ConfigError, check_machine, validate
from octvideo.config.derived import (
    Processes,
    batch_per_process,
    clip_counts_of_test,
    describe_scaling,
    effective_base_lr,
    global_batch_size,
    input_shape,
    linear_rule_lr,
    lr_scale,
    short_side_of_test,
    train_precision,
)
from octvideo.config.external import takes_images
from octvideo.config.keys import get_cfg, leaf_values, resume_effect
from octvideo.config.load import cfg_of_checkpoint, dump, load_cfg
from octvideo.config.named import find_config, list_configs
from octvideo.config.schema import Problem, Resume

__all__ = [
    "ConfigError",
    "Problem",
    "Processes",
    "Resume",
    "batch_per_process",
    "cfg_of_checkpoint",
    "check_machine",
    "clip_counts_of_test",
    "describe_scaling",
    "dump",
    "effective_base_lr",
    "find_config",
    "get_cfg",
    "global_batch_size",
    "input_shape",
    "leaf_values",
    "linear_rule_lr",
    "list_configs",
    "load_cfg",
    "lr_scale",
    "resume_effect",
    "short_side_of_test",
    "takes_images",
    "train_precision",
    "validate",
]
