"""Checkpoints of other projects: read safely, under our names, into our models."""

from octvideo.weights.formats.files import CheckpointError, sha256_of, verify_sha256
from octvideo.weights.formats.torch_file import check_state, read_torch
from octvideo.weights.kernels import inflate_kernels
from octvideo.weights.load import Report, check_fit, load_into
from octvideo.weights.mismatch import Mismatch, compare
from octvideo.weights.read import KINDS, Weights, read_weights
from octvideo.weights.trained import trained_spec

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
    "read_torch",
    "read_weights",
    "sha256_of",
    "trained_spec",
    "verify_sha256",
]
