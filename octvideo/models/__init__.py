"""Models: video ResNets, plain and octave."""

from octvideo.models.build import build_model, create_model, list_models
from octvideo.models.video_resnet import OctavePlacement, ResNetSpec, VideoResNet

__all__ = [
    "OctavePlacement",
    "ResNetSpec",
    "VideoResNet",
    "build_model",
    "create_model",
    "list_models",
]
