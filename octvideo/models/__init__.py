"""Models: networks of videos (C2D, I3D, Slow, SlowFast) and of images, plain and octave."""

from octvideo.models.build import build, build_model, list_models, named_spec, spec_from_dict
from octvideo.models.optimize import optimize_for_inference
from octvideo.models.resnet2d import ResNet2dSpec
from octvideo.models.slowfast import SlowFastSpec
from octvideo.models.spec import NonLocalPlacement, OctavePlacement, ResNetSpec

__all__ = [
    "NonLocalPlacement",
    "OctavePlacement",
    "ResNet2dSpec",
    "ResNetSpec",
    "SlowFastSpec",
    "build",
    "build_model",
    "list_models",
    "named_spec",
    "optimize_for_inference",
    "spec_from_dict",
]
