"""Where the parameters of a file and of a model differ."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Size, Tensor


@dataclass(frozen=True)
class Mismatch:
    """A parameter that does not fit; a shape is None where the parameter is missing."""

    key: str
    in_file: tuple[int, ...] | None
    in_model: tuple[int, ...] | None

    @property
    def reason(self) -> str:
        if self.in_file is None:
            return "missing in the file"
        if self.in_model is None:
            return "unknown to the model"
        return f"{self.in_file} in the file, {self.in_model} in the model"


def compare(state: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> list[Mismatch]:
    """Lists where a file's parameters and a model's shapes differ, in the model's order."""
    return [
        Mismatch(key, _shape(state, key), tuple(shape))
        for key, shape in shapes.items()
        if _shape(state, key) != tuple(shape)
    ] + [Mismatch(key, tuple(state[key].shape), None) for key in state if key not in shapes]


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None
