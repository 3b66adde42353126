"""Layers: octave convolution and what becomes of a network with it. They import torch alone."""

from octvideo.layers import conv3d_as_2d, oct_functions  # noqa: F401
from octvideo.layers.channels import Channels, split_channels
from octvideo.layers.conv3d_as_2d import Conv2d, Conv3d
from octvideo.layers.non_local import NonLocal3d
from octvideo.layers.norm import (
    BatchNorm2d,
    BatchNorm3d,
    OctBatchNorm2d,
    OctBatchNorm3d,
    synchronize_batch_norm,
)
from octvideo.layers.oct_tensor import (
    OctTensor,
    Value,
    convert,
    maps_of,
    merge,
    per_frequency,
    strict,
)
from octvideo.layers.octave import OctConv2d, OctConv3d
from octvideo.layers.octavize import (
    Placement,
    PlacementError,
    kernels_of,
    octave_kind,
    octavize,
)
from octvideo.layers.resample import pool, upsample

__all__ = [
    "BatchNorm2d",
    "BatchNorm3d",
    "Channels",
    "Conv2d",
    "Conv3d",
    "NonLocal3d",
    "OctBatchNorm2d",
    "OctBatchNorm3d",
    "OctConv2d",
    "OctConv3d",
    "OctTensor",
    "Placement",
    "PlacementError",
    "Value",
    "conv3d_as_2d",
    "convert",
    "kernels_of",
    "maps_of",
    "merge",
    "octave_kind",
    "octavize",
    "per_frequency",
    "pool",
    "split_channels",
    "strict",
    "synchronize_batch_norm",
    "upsample",
]
