"""Videos in: readers, sampling, transforms, data sets and loaders."""

from octvideo.data.crash_safe_loader import VideoLoader
from octvideo.data.kinetics import view
from octvideo.data.loader import (
    build_test_loader,
    build_train_loader,
    build_val_loader,
    data_class_names,
    normalization,
    read_split,
    usable_cores,
)
from octvideo.data.read.video import VideoError, VideoReader
from octvideo.data.transforms import normalize

__all__ = [
    "VideoError",
    "VideoLoader",
    "VideoReader",
    "build_test_loader",
    "build_train_loader",
    "build_val_loader",
    "data_class_names",
    "normalization",
    "normalize",
    "read_split",
    "usable_cores",
    "view",
]
