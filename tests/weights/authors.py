"""The paper authors' MXNet networks as files: their names and shapes, with weights made from them.

The lists are reference data (../shared/data/mxnet), which says how the weights are made.
"""

import json
import zlib
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from support import SHARED

FOLDER = SHARED / "data" / "mxnet"


def need_lists() -> None:
    if not FOLDER.is_dir():
        pytest.skip("needs the authors' parameter lists, ../shared/data/mxnet")


@cache
def _lists() -> dict[str, dict[str, tuple[int, ...]]]:
    need_lists()
    networks = {}
    for name, parts in json.loads((FOLDER / "symbol.json").read_text()).items():
        networks[name] = {f"arg:{n}": tuple(s) for n, s in parts["args"].items()}
        networks[name] |= {f"aux:{n}": tuple(s) for n, s in parts["aux"].items()}
    for name, shapes in json.loads((FOLDER / "gluon.json").read_text()).items():
        networks[name] = {n: tuple(s) for n, s in shapes.items()}
    return networks


def authors_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Name in the file -> shape, of a network of symbol.json or gluon.json."""
    return _lists()[network]


def made_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight that stands for a parameter of this name (without arg: or aux:)."""
    bare = name.partition(":")[2] or name
    random = np.random.RandomState(zlib.crc32(bare.encode()) & 0xFFFFFFFF)
    if bare.endswith(("gamma", "var")):
        value = random.uniform(0.5, 1.5, shape)
    elif bare.endswith(("beta", "bias", "mean")):
        value = 0.1 * random.randn(*shape)
    else:
        value = random.randn(*shape) * (1 / np.prod(shape[1:])) ** 0.5
    return value.astype(np.float32)


def authors_arrays(network: str) -> dict[str, Tensor]:
    """What a file of the network holds, with made weights."""
    return {
        name: torch.from_numpy(made_weight(name, shape))
        for name, shape in authors_shapes(network).items()
    }
