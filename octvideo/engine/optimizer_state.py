"""The state of an optimizer in a checkpoint, which PySlowFast and octvideo can both resume from."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from octvideo.engine.checkpoint import OtherRun
from octvideo.engine.state import LARGEST, Load, Saved, is_sound

# The state of each parameter, by the class of the optimizer.
_BUFFERS = {
    "SGD": ("momentum_buffer",),
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq"),
}

Buffers = dict[str, Tensor]


class OptimizerState:
    """Saves and loads buffers and learning rates; other settings stay those of the optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, object]:
        """Returns a state that PySlowFast can resume from as well.

        Its parameters are contiguous and its optimizers not fused, and it takes both choices from
        the file: with ours it would apply the momentum of other weights, or fail.
        """
        saved = self.optimizer.state_dict()
        state = {
            number: {
                name: value.contiguous() if isinstance(value, Tensor) else value
                for name, value in buffers.items()
            }
            for number, buffers in saved["state"].items()
        }
        groups = [{**group, "fused": None, "foreach": None} for group in saved["param_groups"]]
        return {"optimizer_state": {"state": state, "param_groups": groups}}

    def check_state(self, saved: Saved) -> Load:
        """Copies the buffers, laid out in memory as their parameters.

        torch's fused optimizers walk through both as through flat memory: a channels-last parameter
        with a contiguous buffer, as PySlowFast saves it, would be updated with the momentum of
        other weights, and a short buffer would be overrun.

        Raises:
            CheckpointError: a buffer is not as its parameter; `OtherRun`: other parameters or
                another kind of optimizer.
        """
        state = saved.fields("optimizer_state")
        groups, own = state.items("param_groups"), self.optimizer.state_dict()["param_groups"]
        numbers = _parameter_numbers(groups, [len(group["params"]) for group in own])
        rates = [
            groups.fields(index).number("lr", 0, default=group["lr"])
            for index, group in enumerate(own)
        ]
        entries = state.fields("state")
        if not set(entries.names()) <= set(numbers):
            saved.damaged("optimizer_state has state of no parameter")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        own_numbers = [number for group in own for number in group["params"]]
        kind = type(self.optimizer).__name__
        buffers = {
            own_number: found
            for own_number, number, parameter in zip(own_numbers, numbers, parameters, strict=True)
            if number in entries.names()
            and (found := _buffers(entries.fields(number), parameter, kind))
        }
        if buffers and len(buffers) < len(numbers):  # torch's fused SGD fails on the others
            saved.damaged("the optimizer has buffers of some parameters")
        settings = [{**group, "lr": rate} for group, rate in zip(own, rates, strict=True)]

        def load() -> None:
            self.optimizer.load_state_dict({"state": buffers, "param_groups": settings})

        return load


def _parameter_numbers(groups: Saved, sizes: Sequence[int]) -> list[int]:
    """Returns the parameters of all groups, as the file counts them."""
    lists = []
    for index in groups.names():
        group = groups.get(index)
        numbers = group.get("params") if isinstance(group, dict) else None
        lists.append(numbers if isinstance(numbers, (list, tuple)) else [])
    if [len(numbers) for numbers in lists] != list(sizes):
        raise OtherRun(
            f"{groups.path} is not of this run: the parameter groups of its optimizer are not the "
            f"ones of this network, of {', '.join(map(str, sizes))} parameters"
        )
    found = [number for numbers in lists for number in numbers]
    if any(type(number) is not int for number in found) or len(set(found)) < len(found):
        groups.damaged("the parameter groups do not list parameters")
    return found


def _buffers(entry: Saved, parameter: Tensor, kind: str) -> Buffers:
    names, counts = _BUFFERS[kind], kind != "SGD"
    found = {name for name in entry.names() if name in entry}
    if not found <= {*names, *(("step",) if counts else ())}:
        raise OtherRun(f"{entry.path} is not of this run: its optimizer is not {kind}")
    if not found:
        return {}
    buffers = {"step": torch.tensor(_step_count(entry))} if counts else {}
    for name in names:
        value = entry.get(name)
        if not (
            isinstance(value, Tensor)
            and is_sound(value)
            and value.shape == parameter.shape
            and value.dtype == parameter.dtype
        ):
            shape = tuple(parameter.shape)
            entry.refuse(name, f"as its parameter, {shape} of {parameter.dtype}")
        buffers[name] = torch.empty_like(parameter, device="cpu").copy_(value)
    return buffers


def _step_count(entry: Saved) -> float:
    """Returns a count that is a number or a tensor of one element, by the version of torch."""
    value = entry.get("step")
    if isinstance(value, Tensor) and is_sound(value) and value.numel() == 1:
        entry = Saved(entry.path, {"step": value.item()})
    return entry.number("step", 0, LARGEST)
