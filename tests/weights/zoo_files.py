"""Writes checkpoints as other projects write them, opcode by opcode where they used Python 2."""

import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from octvideo import create_model
from support import SHARED

NAMES = SHARED / "data" / "pyslowfast"
TINY = {"width_per_group": 4, "num_classes": 5, "num_frames": 4, "crop_size": 32}


def names(file: str) -> dict[str, dict[str, str]]:
    """Model -> (their name -> ours)."""
    return json.loads((NAMES / file).read_text())


def tiny(arch: str = "i3d", seed: int = 0, **options: Any) -> nn.Module:
    """A ResNet-50 of few channels; no two models of different seeds share a parameter."""
    torch.manual_seed(seed)
    if arch.startswith("slowfast"):  # a fast pathway of one channel, eight frames of it
        options = {"width_per_group": 8, "num_frames": 32, **options}
    model = create_model(f"{arch}_r50", **{**TINY, **options}).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(std=0.3 if value.ndim < 2 else (2 / value[0].numel()) ** 0.5)
    return model


def caffe2_blobs(state: Mapping[str, Tensor], model: str) -> dict[str, Any]:
    """The blobs of the zoo's file of a model, and what its optimizer left."""
    blobs: dict[str, Any] = {
        theirs: state[ours].numpy() for theirs, ours in names("c2_to_pt_names.json")[model].items()
    }
    momentum = {f"{name}_momentum": blob * 0 for name, blob in blobs.items() if name[-1] in "wb"}
    return {**blobs, **momentum, "lr": np.float32([0.1]), "model_iter": 300_000}


def python2_pickle(blobs: Mapping[str, Any]) -> bytes:
    """What Python 2 and numpy 1.13 write for {"blobs": blobs}, protocol 2: bytes as BINSTRING."""
    out = [b"\x80\x02}q\x00", _text("blobs"), b"}q\x01("]
    for name, blob in blobs.items():
        out += [_text(name), _python2_array(blob) if isinstance(blob, np.ndarray) else _int(blob)]
    return b"".join([*out, b"us."])


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return b"T" + struct.pack("<i", len(data)) + data


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _python2_array(array: np.ndarray) -> bytes:
    code = array.dtype.str.lstrip("<>|=")
    dtype = b"cnumpy\ndtype\n(" + _text(code) + b"K\x00K\x01tR"
    dtype += b"(K\x03" + _text("<") + b"NNN" + _int(-1) + _int(-1) + b"K\x00tb"
    empty = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + _text("b") + b"tR"
    )
    shape = b"(" + b"".join(_int(n) for n in array.shape) + b"t"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + _text(array.tobytes()) + b"tb"


def write_caffe2(path: Path, model: nn.Module, name: str = "I3D_8x8_R50") -> Path:
    path.write_bytes(python2_pickle(caffe2_blobs(model.state_dict(), name)))
    return path


def write_pytorchvideo(path: Path, model: nn.Module, name: str, prefix: str = "model.") -> Path:
    theirs = {ours: key for key, ours in names("ptv_to_pysf_names.json")[name].items()}
    state = {
        theirs[key].replace("model.", prefix, 1): value for key, value in model.state_dict().items()
    }
    torch.save({"model_state": state}, path)
    return path


def python3_pickle(blobs: Mapping[str, Any], protocol: int) -> bytes:
    return pickle.dumps({"blobs": blobs}, protocol=protocol)
