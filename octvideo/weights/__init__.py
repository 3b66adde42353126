"""Checkpoints of other projects: read safely, under our names, into our models."""

from octvideo.weights.formats.files import CheckpointError, sha256_of, verify_sha256
from octvideo.weights.formats.torch_file import check_state, read_torch
from octvideo.weights.kernels import inflate_kernels
from octvideo.weights.load import Mismatch, Report, check_fit, compare, load_into, low_channels_of
from octvideo.weights.read import KINDS, Weights, read_weights

__all__ = [
    "KINDS",
    "CheckpointError",
    "Mismatch",
    "Report",
    "Weights",
    "check_fit",
    "check_state",
    "compare",
    "inflate_kernels",
    "load_into",
    "low_channels_of",
    "read_torch",
    "read_weights",
    "sha256_of",
    "verify_sha256",
]
