"""Writes files as ``nd.save`` of MXNet 1.x does; see `octvideo.weights.formats.mxnet`."""

import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

LIST, V2, CPU = 0x112, 0xF993FAC9, (1, 0)
TYPE_NUMBERS = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.uint8: 3,
    torch.int32: 4,
    torch.int8: 5,
    torch.int64: 6,
    torch.bool: 7,
    torch.int16: 8,
    torch.bfloat16: 12,
}


def write_mxnet(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Writes arrays byte for byte as MXNet; there are none without elements or axes."""
    parts = [struct.pack("<QQQ", LIST, 0, len(arrays))]
    for array in arrays.values():
        assert array.numel()
        assert array.ndim
        head = (V2, 0, array.ndim, *array.shape, *CPU, TYPE_NUMBERS[array.dtype])
        parts.append(struct.pack(f"<IiI{array.ndim}qiii", *head))
        parts.append(array.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts += [struct.pack("<Q", len(name.encode())), name.encode()]
    path.write_bytes(b"".join(parts))
