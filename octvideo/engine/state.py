"""State that its owners save and load: each part of a run has its own entries in a checkpoint.

A damaged or hostile file must not change a run halfway, and fused optimizers write through whatever
buffer they are given. So nothing here trusts a type, a range, a shape or a storage of the file, and
nothing is taken before everything has been checked.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from octvideo.weights import CheckpointError, Weights, check_fit, check_state

LARGEST = 2**53  # whole numbers up to here survive every conversion

Load = Callable[[], None]


class Saved:
    """Reads fields of a checkpoint; each method refuses a value of the wrong kind.

    place: of the fields within the file, for messages.

    Raises:
        CheckpointError: in all methods; names the file, the field and what it must be.
    """

    def __init__(self, path: Path, fields: Mapping[Any, object], place: str = "") -> None:
        self.path, self._fields, self._place = path, fields, place

    def __contains__(self, name: object) -> bool:
        """Returns whether the field is there and not None."""
        return self._fields.get(name) is not None

    def names(self) -> list[object]:
        return list(self._fields)

    def get(self, name: object) -> object:
        return self._fields.get(name)

    def integer(
        self, name: object, default: int | None = None, low: int = 0, high: int = LARGEST
    ) -> int:
        value = self._fields.get(name, default)
        is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if is_whole and low <= value <= high:  # type: ignore[operator]
            return int(value)  # type: ignore[call-overload]
        limit = f"from {low} to {high}" if high < LARGEST else f"of at least {low}"
        self.refuse(name, f"a whole number {limit}")

    def number(
        self, name: object, low: float, high: float = math.inf, default: float | None = None
    ) -> float:
        value = self._fields.get(name, default)
        kinds = (int, float, np.integer, np.floating)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if is_number and low <= value <= min(high, sys.float_info.max):  # type: ignore[operator]
            return float(value)  # type: ignore[arg-type]
        self.refuse(name, f"a number from {low:g} to {high:g}")

    def fields(self, name: object, default: Mapping[str, object] | None = None) -> "Saved":
        """Returns the fields of a dict; ``default`` is taken if there is no such field."""
        value = self._fields.get(name, default)
        if not isinstance(value, dict):
            self.refuse(name, "a dict")
        return Saved(self.path, value, f"{self._name(name)} ")

    def items(self, name: object, size: int | None = None) -> "Saved":
        """Returns the entries of a list as fields 0, 1, ...; of a missing list, none."""
        value = self._fields.get(name, ())
        if not isinstance(value, (list, tuple)) or size not in (None, len(value)):
            self.refuse(name, "a list" if size is None else f"a list of {size} entries")
        return Saved(self.path, dict(enumerate(value)), f"{self._name(name)} ")

    def refuse(self, name: object, wanted: str) -> NoReturn:
        value = self._fields.get(name)
        shown = f"a {tuple(value.shape)} tensor" if isinstance(value, Tensor) else f"{value!r:.60}"
        self.damaged(f"{self._name(name)} is {shown}, and must be {wanted}")

    def damaged(self, reason: str) -> NoReturn:
        raise CheckpointError(f"{self.path} is damaged: {reason}")

    def _name(self, name: object) -> str:
        return f"{self._place}{name}"


class Stateful(Protocol):
    """A part of a run that owns some entries of its checkpoints."""

    def state_dict(self) -> dict[str, object]:
        """Returns its entries."""
        ...

    def check_state(self, saved: Saved) -> Load:
        """Checks its entries of a checkpoint; returns the function that takes them.

        It changes nothing itself.

        Raises:
            CheckpointError: an entry is damaged, or belongs to another run.
        """
        ...


def load_state(owners: Iterable[Stateful], saved: Saved) -> None:
    """Lets each owner take its entries, in this order, once all of them have been checked.

    Raises:
        CheckpointError: of the first owner that refuses; then nothing has been taken.
    """
    for load in [owner.check_state(saved) for owner in owners]:
        load()


def is_sound(value: object) -> bool:
    """Returns whether it is an ordinary tensor, and the file has all of its elements."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def check_weights(model: nn.Module, weights: object, path: Path) -> Load:
    """Checks that a state dict fits the model exactly; returns the function that loads it."""
    state = check_state(weights, path)
    for key, own in model.state_dict().items():
        if key in state and state[key].is_floating_point() != own.is_floating_point():
            raise CheckpointError(f"{path} is damaged: {key} is of {state[key].dtype}")
    fitting, _ = check_fit(model, Weights(path, "octvideo", state))

    def load() -> None:
        model.load_state_dict(fitting)

    return load


class ModelState:
    """The weights and buffers of the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def state_dict(self) -> dict[str, object]:
        return {"model_state": self.model.state_dict()}

    def check_state(self, saved: Saved) -> Load:
        return check_weights(self.model, saved.get("model_state"), saved.path)
