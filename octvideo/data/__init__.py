"""Videos in: readers, sampling, transforms, data sets and loaders."""

from octvideo.data.clips import view
from octvideo.data.crash_safe_loader import VideoLoader
from octvideo.data.loader import (
    build_test_loader,
    build_train_loader,
    build_val_loader,
    data_class_names,
    read_split,
    usable_cores,
)
from octvideo.data.protocol import Protocol, build_protocol
from octvideo.data.read.video import VideoError, VideoReader
from octvideo.data.transforms import normalize

__all__ = [
    "Protocol",
    "VideoError",
    "VideoLoader",
    "VideoReader",
    "build_protocol",
    "build_test_loader",
    "build_train_loader",
    "build_val_loader",
    "data_class_names",
    "normalize",
    "read_split",
    "usable_cores",
    "view",
]
