"""Checks of the networks whose convolutions are factorised: X3D."""

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from octvideo.config.keys import value_of
from octvideo.config.schema import Problem

X3D = {"MODEL.ARCH": "x3d", "MODEL.MODEL_NAME": "X3D", "RESNET.TRANS_FUNC": "x3d_transform"}


def check_factorised(cfg: CfgNode) -> Iterator[Problem]:
    """Yields what does not go together in a configuration of X3D."""
    is_x3d = {key: value_of(cfg, key) == value for key, value in X3D.items()}
    arch = cfg.MODEL.ARCH
    for key, value in X3D.items():
        if arch == "x3d" and not is_x3d[key] and value_of(cfg, key) != "SlowFast":
            yield Problem(
                key, f"{key} is {value_of(cfg, key)}, but MODEL.ARCH is x3d: set {key} {value}"
            )
        elif arch not in ("x3d", "2d") and is_x3d[key]:
            yield Problem(
                key, f"{key} is {value}, but MODEL.ARCH is {arch}: it is for MODEL.ARCH x3d alone"
            )
    if arch != "x3d":
        return
    if any(blocks for stage in cfg.NONLOCAL.LOCATION for blocks in stage):
        yield Problem(
            "NONLOCAL.LOCATION",
            f"NONLOCAL.LOCATION is {cfg.NONLOCAL.LOCATION}, but X3D has no non-local blocks here: "
            "set NONLOCAL.LOCATION [[[]], [[]], [[]], [[]]]",
        )
