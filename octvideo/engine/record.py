"""What a checkpoint says about a training run, checked field by field before any of it is used.

A damaged or hostile file must not change a run halfway, and fused optimizers write through whatever
buffer they are given: nothing here trusts a type, a range, a shape or a storage of the file.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from octvideo.engine.checkpoint import CheckpointError, OtherRun
from octvideo.engine.meters import TrainMeter
from octvideo.weights import check_state

_LARGEST = 2**53  # whole numbers up to here survive every conversion
# The state that each parameter has, by the class of the optimizer.
_BUFFERS = {
    "SGD": ("momentum_buffer",),
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq"),
}


@dataclass(frozen=True)
class RankState:
    """Random states of one process, and its meters as ``TrainMeter.state`` gives them."""

    rng: Tensor
    cuda_rng: Tensor | None
    meters: dict[str, list[float]]


@dataclass(frozen=True)
class Record:
    """The fields of a checkpoint that a run resumes from, all of them sound.

    ``epochs``: finished; ``step``, ``samples``: of the epoch under way. ``samples`` is None in
    files of older versions. ``optimizer``: a state dict whose tensors are copies, laid out in
    memory as their parameters. ``scaler``: empty unless the run was in fp16. ``ranks``: one for
    each process that the run had, empty in files of PySlowFast.
    """

    epochs: int
    step: int
    samples: int | None
    optimizer: dict[str, Any]
    scaler: dict[str, float]
    average: dict[str, Tensor] | None
    ranks: list[RankState]
    min_errors: dict[str, float]
    best_epoch: int | None
    world: dict[str, int]


def read_record(
    path: Path,
    content: Mapping[str, Any],
    optimizer: Optimizer,
    meters: Mapping[str, TrainMeter],
    device: torch.device,
) -> Record:
    """Reads the checkpoint ``content`` of ``path`` for a run with this optimizer and these meters.

    Nothing is changed, the optimizer included.

    Raises:
        CheckpointError: a field is damaged; `OtherRun`: the optimizer is of another run.
    """
    epoch = _integer(path, "epoch", content.get("epoch"))
    step = _integer(path, "step", content.get("step", 0))
    world = _dict(path, "world", content.get("world", {}))
    world = {str(key): _integer(path, f"world[{key!r}]", n, 1) for key, n in world.items()}
    samples = content.get("samples")
    if samples is not None:
        samples = _integer(path, "samples", samples, step, _LARGEST if step else 0)
    best = content.get("best_epoch")
    return Record(
        epochs=epoch + (0 if step else 1),  # PySlowFast's "epoch" counts from 0
        step=step,
        samples=samples,
        optimizer=optimizer_state(path, content.get("optimizer_state"), optimizer),
        scaler=_scaler(path, content.get("scaler_state")),
        average=_average(path, content),
        ranks=_ranks(path, content.get("rank_states", []), meters, device),
        min_errors=_errors(path, content.get("min_errors", {})),
        best_epoch=None if best is None else _integer(path, "best_epoch", best, 1),
        world=world,
    )


# ---------------------------------------------------------------- plain values


def _refuse(path: Path, name: str, value: object, wanted: str) -> NoReturn:
    shown = f"a {tuple(value.shape)} tensor" if isinstance(value, Tensor) else f"{value!r:.60}"
    raise CheckpointError(f"{path} is damaged: {name} is {shown}, and must be {wanted}")


def _integer(path: Path, name: str, value: object, low: int = 0, high: int = _LARGEST) -> int:
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:  # type: ignore[operator]
        limit = f"from {low} to {high}" if high < _LARGEST else f"of at least {low}"
        _refuse(path, name, value, f"a whole number {limit}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def _number(path: Path, name: str, value: object, low: float, high: float = math.inf) -> float:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    is_number = is_number and not isinstance(value, np.complexfloating)
    if not (is_number and math.isfinite(value) and low <= value <= high):  # type: ignore
        _refuse(path, name, value, f"a number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]


def _dict(path: Path, name: str, value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        _refuse(path, name, value, "a dict")
    return value


def _errors(path: Path, value: object) -> dict[str, float]:
    errors = _dict(path, "min_errors", value)
    names = [name for name in ("min_top1_err", "min_top5_err") if name in errors]
    return {name: _number(path, name, errors[name], 0, 100) for name in names}


def _scaler(path: Path, value: object) -> dict[str, float]:
    """Scale and counters alone: how it grows and falls is the run's own."""
    state = _dict(path, "scaler_state", {} if value is None else value)
    if not state:
        return {}
    smallest, largest = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
    counters = ("_growth_tracker", "skipped", "in_a_row")  # PySlowFast has the first one only
    return {
        "scale": _number(path, "the loss scale", state.get("scale"), smallest, largest),
        **{name: _integer(path, name, state.get(name, 0), 0, 2**31 - 1) for name in counters},
    }


# ---------------------------------------------------------------- tensors


def _sound(value: object) -> bool:
    """Whether it is an ordinary tensor, all of whose elements the file has."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _average(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The averaged weights, which have the names and shapes of the weights."""
    value = content.get("ema_state")
    if value is None:
        return None
    average, weights = check_state(value, path), content["model_state"]
    shapes = {key: tensor.shape for key, tensor in average.items()}
    if shapes != {key: tensor.shape for key, tensor in weights.items()}:
        raise CheckpointError(
            f"{path} is damaged: ema_state and model_state differ in their shapes"
        )
    return average


def _ranks(
    path: Path, value: object, meters: Mapping[str, TrainMeter], device: torch.device
) -> list[RankState]:
    if not isinstance(value, (list, tuple)):
        _refuse(path, "rank_states", value, "a list")
    ranks = [
        _rank(path, _dict(path, f"rank_states[{number}]", state), meters, device)
        for number, state in enumerate(value)
    ]
    if any(rank.meters.keys() != ranks[0].meters.keys() for rank in ranks):
        raise CheckpointError(f"{path} is damaged: the processes have different meters")
    return ranks


def _rank(
    path: Path, state: dict[Any, Any], meters: Mapping[str, TrainMeter], device: torch.device
) -> RankState:
    rng = _random_state(path, "rng", state.get("rng"), torch.device("cpu"))
    cuda_rng = None
    if device.type == "cuda" and "cuda_rng" in state:
        cuda_rng = _random_state(path, "cuda_rng", state["cuda_rng"], device)
    sums = {}
    for name, values in _dict(path, "meters", state.get("meters")).items():
        if name not in meters:
            continue
        size = len(meters[name].sums) + 1
        if not isinstance(values, (list, tuple)) or len(values) != size:
            _refuse(path, f"meter {name}", values, f"a list of {size} numbers")
        sums[name] = [_number(path, f"meter {name}", number, 0) for number in values]
    return RankState(rng, cuda_rng, sums)


def _random_state(path: Path, name: str, value: object, device: torch.device) -> Tensor:
    """A state that a generator of the device takes, which is tried on another one than torch's."""
    if isinstance(value, Tensor) and _sound(value) and value.dtype == torch.uint8:
        state = value.clone(memory_format=torch.contiguous_format)
        try:
            torch.Generator(device).set_state(state)
        except (RuntimeError, TypeError):
            pass
        else:
            return state
    _refuse(path, name, value, f"the state of a random generator (of {device.type})")


# ---------------------------------------------------------------- the optimizer


def optimizer_state(path: Path, value: object, optimizer: Optimizer) -> dict[str, Any]:
    """Buffers and learning rates of a checkpoint, as ``optimizer.load_state_dict`` takes them.

    All other settings stay those of ``optimizer``. Buffers are copies laid out in memory as their
    parameters. torch's fused optimizers walk through both as through flat memory: a channels-last
    parameter with a contiguous buffer, as PySlowFast saves it, would be updated with the momentum
    of other weights, and a short buffer would be overrun.

    Raises:
        CheckpointError: a buffer is not as its parameter; `OtherRun`: other parameters or another
            kind of optimizer.
    """
    state = _dict(path, "optimizer_state", value)
    own, groups = optimizer.state_dict()["param_groups"], state.get("param_groups")
    numbers = _parameter_numbers(path, groups, [group["params"] for group in own])
    rates = [
        _number(path, "lr", group.get("lr", mine["lr"]), 0)
        for group, mine in zip(groups, own, strict=True)
    ]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own_numbers = [number for group in own for number in group["params"]]
    entries = _dict(path, "optimizer_state['state']", state.get("state"))
    if not entries.keys() <= set(numbers):
        raise CheckpointError(f"{path} is damaged: optimizer_state has state of no parameter")
    buffers = {
        own_number: _buffers(path, number, entries[number], parameter, type(optimizer).__name__)
        for own_number, number, parameter in zip(own_numbers, numbers, parameters, strict=True)
        if number in entries
    }
    buffers = {number: state for number, state in buffers.items() if state}
    if buffers and len(buffers) < len(numbers):  # torch's fused SGD fails on the others
        raise CheckpointError(f"{path} is damaged: the optimizer has buffers of some parameters")
    groups = [{**group, "lr": rate} for group, rate in zip(own, rates, strict=True)]
    return {"state": buffers, "param_groups": groups}


def _parameter_numbers(path: Path, groups: object, own: list[list[int]]) -> list[int]:
    """The parameters of all groups, as the file counts them."""
    sizes = [len(numbers) for numbers in own]
    is_like = isinstance(groups, (list, tuple)) and all(
        isinstance(group, dict) and isinstance(group.get("params"), (list, tuple))
        for group in groups
    )
    if not is_like or [len(g["params"]) for g in groups] != sizes:  # type: ignore[union-attr]
        raise OtherRun(
            f"{path} is not of this run: the parameter groups of its optimizer are not those of "
            f"this network, of {', '.join(map(str, sizes))} parameters"
        )
    numbers = [number for group in groups for number in group["params"]]  # type: ignore[union-attr]
    if any(type(number) is not int for number in numbers) or len(set(numbers)) < len(numbers):
        raise CheckpointError(f"{path} is damaged: the parameter groups do not list parameters")
    return numbers


def _buffers(
    path: Path, number: int, entry: object, parameter: Tensor, kind: str
) -> dict[str, Any]:
    entry = _dict(path, f"the optimizer's state of parameter {number}", entry)
    names, counts = _BUFFERS[kind], kind != "SGD"
    found = {name for name in entry if entry[name] is not None}
    if not found <= {*names, *(("step",) if counts else ())}:
        raise OtherRun(f"{path} is not of this run: its optimizer is not {kind}")
    if not found:
        return {}
    buffers: dict[str, Any] = {}
    if counts:
        buffers["step"] = torch.tensor(_step_count(path, number, entry.get("step")))
    for name in names:
        value = entry.get(name)
        if not _sound(value) or value.shape != parameter.shape or value.dtype != parameter.dtype:
            wanted = f"as its parameter, {tuple(parameter.shape)} of {parameter.dtype}"
            _refuse(path, f"the optimizer's {name} of parameter {number}", value, wanted)
        buffers[name] = torch.empty_like(parameter, device="cpu").copy_(value)
    return buffers


def _step_count(path: Path, number: int, value: object) -> float:
    """A number, or a tensor of one element, by the version of torch that wrote it."""
    if isinstance(value, Tensor) and _sound(value) and value.numel() == 1:
        value = value.item()
    return _number(path, f"the optimizer's step of parameter {number}", value, 0, _LARGEST)
