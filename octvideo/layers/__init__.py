"""Layers: octave convolution and batch norm, 2D and 3D; multigrid convolution; non-local block."""

from octvideo.layers import conv3d_as_2d
from octvideo.layers.mgconv import MGConv2d
from octvideo.layers.non_local import NonLocal3d
from octvideo.layers.norm import OctBatchNorm2d, OctBatchNorm3d, synchronize_batch_norm
from octvideo.layers.octave import OctConv2d, OctConv3d
from octvideo.layers.value import (
    Channels,
    Value,
    convert,
    merge,
    per_frequency,
    pool,
    pool_high,
    split_channels,
    upsample,
)

__all__ = [
    "Channels",
    "MGConv2d",
    "NonLocal3d",
    "OctBatchNorm2d",
    "OctBatchNorm3d",
    "OctConv2d",
    "OctConv3d",
    "Value",
    "conv3d_as_2d",
    "convert",
    "merge",
    "per_frequency",
    "pool",
    "pool_high",
    "split_channels",
    "synchronize_batch_norm",
    "upsample",
]
