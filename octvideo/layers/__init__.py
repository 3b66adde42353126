"""Layers: octave convolution and batch norm, 2D and 3D."""

from octvideo.layers.octave import (
    Channels,
    OctBatchNorm2d,
    OctBatchNorm3d,
    OctConv2d,
    OctConv3d,
    Value,
    convert,
    merge,
    per_frequency,
    pool,
    split_channels,
    upsample,
)

__all__ = [
    "Channels",
    "OctBatchNorm2d",
    "OctBatchNorm3d",
    "OctConv2d",
    "OctConv3d",
    "Value",
    "convert",
    "merge",
    "per_frequency",
    "pool",
    "split_channels",
    "upsample",
]
