"""Models: networks of videos (C2D, I3D, Slow, SlowFast, X3D, R(2+1)D, CSN) and of images."""

from octvideo.models.build import build, list_models, named_spec, spec_from_dict
from octvideo.models.from_cfg import build_model
from octvideo.models.optimize import optimize_for_inference
from octvideo.models.resnet2d import ResNet2dSpec
from octvideo.models.slowfast import SlowFastSpec
from octvideo.models.spec import NonLocalPlacement, OctavePlacement, ResNetSpec
from octvideo.models.x3d import X3DSpec

__all__ = [
    "NonLocalPlacement",
    "OctavePlacement",
    "ResNet2dSpec",
    "ResNetSpec",
    "SlowFastSpec",
    "X3DSpec",
    "build",
    "build_model",
    "list_models",
    "named_spec",
    "optimize_for_inference",
    "spec_from_dict",
]
