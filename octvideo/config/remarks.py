"""Settings that have no effect in combination with others."""

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from octvideo.config.derived import Processes
from octvideo.config.external import ignored_keys, takes_images
from octvideo.config.keys import get_cfg, value_of


def remarks(cfg: CfgNode, launched: Processes | None = None) -> list[str]:
    """Returns a warning for each setting that has no effect in combination with others."""
    steps, lrs, aug = cfg.SOLVER.STEPS, cfg.SOLVER.LRS, cfg.AUG
    found = []
    if cfg.SOLVER.LR_POLICY == "steps_with_relative_lrs" and len(lrs) > len(steps):
        found.append(
            f"SOLVER.LRS has more entries than SOLVER.STEPS: {lrs[len(steps) :]} are ignored"
        )
    if cfg.SOLVER.CLIP_GRAD_VAL and cfg.SOLVER.CLIP_GRAD_L2NORM:
        found.append("SOLVER.CLIP_GRAD_L2NORM is ignored: SOLVER.CLIP_GRAD_VAL clips already")
    if launched and cfg.NUM_GPUS not in (0, launched.per_node):
        found.append(
            f"NUM_GPUS {cfg.NUM_GPUS} is ignored: {launched.launcher} started "
            f"{launched.per_node} process{'es' if launched.per_node > 1 else ''} on each "
            "node, with a GPU each"
        )
    if launched and cfg.NUM_SHARDS not in (1, launched.nodes):
        found.append(
            f"NUM_SHARDS {cfg.NUM_SHARDS} is ignored: {launched.launcher} started processes on "
            f"{launched.nodes} node{'s' if launched.nodes > 1 else ''}"
        )
    if cfg.NUM_GPUS == 0:
        for key in ("TRAIN.PRECISION", "TEST.PRECISION"):
            if value_of(cfg, key) == "fp16" and value_of(cfg, key.replace("PRECISION", "ENABLE")):
                found.append(f"{key} fp16 is many times slower than fp32 on a CPU: try bf16")
    if cfg.MODEL.ACT_CHECKPOINT and not cfg.TRAIN.ENABLE:
        found.append("MODEL.ACT_CHECKPOINT is for training: a test does not keep activations")
    if cfg.MODEL.ARCH == "external":
        found += ignored_keys(cfg)
    if cfg.MODEL.ARCH == "2d":
        found += _fixed_by_name(cfg)
    if cfg.MODEL.ARCH == "slowfast" and cfg.RESNET.STRIDE_1X1:
        found.append(
            "RESNET.STRIDE_1X1 is ignored: as in PySlowFast, SlowFast strides on the 3x3 alone"
        )
    if aug.ENABLE and not takes_images(cfg) and not aug.AA_TYPE and aug.COLOR_JITTER:
        found.append("AUG.COLOR_JITTER is for still images: videos are not changed by it")
    if aug.ENABLE and aug.RE_SPLIT and aug.NUM_SAMPLE == 1:
        found.append("AUG.RE_SPLIT spares the first of several copies: AUG.NUM_SAMPLE is 1")
    return found


def _fixed_by_name(cfg: CfgNode) -> Iterator[str]:
    """Settings of video networks in the configuration of an image network."""
    defaults = get_cfg()
    for section in ("RESNET", "NONLOCAL", "SLOWFAST", "X3D"):
        for name, value in cfg[section].items():
            key = f"{section}.{name}"
            used = ("RESNET.ZERO_INIT_FINAL_BN", "RESNET.WIDTH_PER_GROUP")
            if key == "RESNET.DEPTH" and f"resnet{value}_" in cfg.MODEL.MODEL_NAME:
                continue
            if key not in used and value != defaults[section][name]:
                yield f"{key} is ignored: MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME} fixes the network"
