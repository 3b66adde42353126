"""What a network does with one example: its convolutions and functions, and what flows where.

The network runs as it is, in evaluation, on the meta device, where nothing is computed; where that
is impossible (its path depends on values), it runs on the example itself. What Python code lies
between the layers makes no difference, but a path that the example does not take is not seen.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from octvideo.layers import OctTensor, PlacementError, Value
from octvideo.layers.oct_functions import borders_of
from octvideo.layers.oct_tensor import TABLE, works_in_place
from octvideo.layers.octavize import in_mode

Example = Tensor | list[object] | tuple[object, ...] | dict[str, object]
Conv = nn.Conv2d | nn.Conv3d
Func = Callable[..., object]
Watch = Callable[[], contextlib.AbstractContextManager[object]]
# What a network raises on the meta device, or on an input that it cannot take.
_FOREIGN = (RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError)


@dataclass
class Call:
    """One layer or function of a forward pass.

    Attributes:
        name: of the layer, as in ``named_modules``; of a function, its own.
        module: the innermost module that it runs in.
        layer: the layer; None of a function.
        inputs: the calls that made its inputs; None for what comes from outside.
        shape: of its (first) output.
        input_shapes: of its inputs that are tensors.
        num_groups: of a group norm.
        borders: where it cuts the channels of its input, or joins those of its inputs.
        is_lost: whether it writes into a part of a tensor that is used afterwards, in a way that
            would reach no more than a copy of an octave value.
    """

    name: str
    module: str
    layer: nn.Module | None
    inputs: list["Call | None"]
    input_shapes: list[torch.Size]
    shape: torch.Size
    num_groups: int = 1
    borders: list[int] = field(default_factory=list)
    is_lost: bool = False
    users: list["Call"] = field(default_factory=list, repr=False)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def conv(self) -> Conv | None:
        """The layer, where it is a convolution."""
        return self.layer if isinstance(self.layer, (nn.Conv2d, nn.Conv3d)) else None

    @property
    def area(self) -> int:
        """The pixels of a frame of its output."""
        return self.shape[-2:].numel() if len(self.shape) >= 4 else 1


def arguments(example: Example) -> tuple[tuple[object, ...], dict[str, object]]:
    """Returns an example as positional and named arguments: a tuple has several, a dict names."""
    if isinstance(example, tuple):
        return example, {}
    return ((), dict(example)) if isinstance(example, dict) else ((example,), {})


def run(model: nn.Module, example: Example, watch: Watch = contextlib.nullcontext) -> object:
    """Runs a network once in evaluation, without gradients and without changing it.

    Args:
        watch: makes a context for the pass; a second one, where the meta device does not do.

    Raises:
        ValueError: it cannot take the example.
    """
    with in_mode(model), torch.no_grad():
        return _run(model, example, watch)


def _run(model: nn.Module, example: Example, watch: Watch) -> object:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    meta = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    args, kwargs = arguments(_map(example, lambda t: torch.empty_like(t, device="meta")))
    try:
        with _QuickNorms(), watch():
            return torch.func.functional_call(model, meta, args, kwargs)
    except PlacementError:  # what our layers say is no matter of the device
        raise
    except _FOREIGN:
        args, kwargs = arguments(example)
    try:
        with torch.random.fork_rng(devices=[]), watch():
            return model(*args, **kwargs)
    except PlacementError:
        raise
    except _FOREIGN as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(example))
        raise ValueError(
            f"{type(model).__name__} cannot take an example of shape {shapes}: {error}. "
            "Give an input that it takes as example="
        ) from error


class _QuickNorms(TorchFunctionMode):
    """Skips norms on the meta device: they take milliseconds, and keep shape and type."""

    def __torch_function__(
        self,
        func: Func,
        types: object,
        args: tuple[Tensor, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func in (F.batch_norm, torch.batch_norm, F.layer_norm) and args and args[0].is_meta:
            return args[0].clone()
        return func(*args, **(kwargs or {}))


def _map(value: object, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Mapping):
        return {key: _map(item, fn) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_map(item, fn) for item in value])
    return value


def tensors_in(value: object) -> Iterator[Value]:
    """Yields the tensors and octave values in nested lists, tuples and dicts."""
    if isinstance(value, (Tensor, OctTensor)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


class CurrentModule:
    """Follows a forward pass: ``name`` is the innermost module that runs now."""

    def __init__(self) -> None:
        self._stack: list[str] = [""]
        self.entered: list[str] = []  # all that have run, in order

    @property
    def name(self) -> str:
        return self._stack[-1]

    @property
    def is_inside(self) -> bool:
        """Whether the network runs."""
        return len(self._stack) > 1

    @contextlib.contextmanager
    def follow(self, model: nn.Module) -> Iterator["CurrentModule"]:
        with contextlib.ExitStack() as hooks:
            for name, module in model.named_modules():
                enter = module.register_forward_pre_hook(self._entering(name))
                leave = module.register_forward_hook(self._leave, always_call=True)
                hooks.callback(enter.remove)
                hooks.callback(leave.remove)
            yield self

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: object) -> None:
            self._stack.append(name)
            self.entered.append(name)

        return enter

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        self._stack.pop()


def trace(model: nn.Module, example: Example) -> list[Call]:
    """Returns the convolutions and functions of one forward pass, in order.

    Raises:
        ValueError: the network cannot take the example.
    """
    return trace_layers(model, example, (nn.Conv2d, nn.Conv3d))[0]


def trace_layers(
    model: nn.Module, example: Example, kinds: tuple[type[nn.Module], ...]
) -> tuple[list[Call], set[Call]]:
    """Returns the layers of some kinds and the functions of one forward pass, in order.

    What these layers do inside is not recorded. The second of the two are the calls whose values
    the network returns.

    Raises:
        ValueError: the network cannot take the example.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    where = CurrentModule()
    recorder = _Recorder(where, layers)
    with contextlib.ExitStack() as hooks, where.follow(model):
        for name, layer in layers.items():
            hook = layer.register_forward_hook(recorder.layer_hook(name))
            hooks.callback(hook.remove)
        output = run(model, example, recorder.start)
    recorder.writes.use([*tensors_in(output)])
    return recorder.calls, recorder.makers_of(output)


_CUTS = ("__getitem__", "chunk", "split")


class _Writes:
    """What is written into parts of tensors, and who uses the tensors afterwards.

    A part of an octave value is a copy, except where some of its channels are cut out.
    """

    def __init__(self) -> None:
        self._copies: set[int] = set()
        self._written: dict[int, tuple[Call, set[int]]] = {}  # by whole: who wrote, and into what

    def follow(self, call: Call, args: object, output: object, is_known: bool) -> None:
        """Notes which outputs are parts; ``is_known``: octave values give parts, too."""
        inputs = {id(x) for x in tensors_in(args)}
        for part in tensors_in(output):
            if id(part) not in inputs and (whole := _whole(part)) is not part:
                if not is_known or inputs & self._copies:
                    self._copies.add(id(part))
                if (write := self._written.get(id(whole))) and inputs & write[1]:
                    write[1].add(id(part))

    def write(self, call: Call, target: object, is_known: bool) -> None:
        if not isinstance(target, Tensor) or (whole := _whole(target)) is target:
            return
        if not is_known or id(target) in self._copies:
            self._written.setdefault(id(whole), (call, {id(target)}))

    def use(self, values: list[Value]) -> None:
        for value in values:
            write = self._written.get(id(_whole(value)))
            if write is not None and id(value) not in write[1]:
                write[0].is_lost = True


def _whole(value: Value) -> Value:
    return value if isinstance(value, OctTensor) or value._base is None else value._base


class _Recorder(TorchFunctionMode):
    def __init__(self, where: CurrentModule, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.where, self.layers = where, layers
        self.start()

    def start(self) -> "_Recorder":
        """Forgets what it has recorded."""
        self.calls: list[Call] = []
        self._made: dict[int, Call] = {}
        self._kept: list[Value] = []  # while they live, no other value can get their ids
        self.writes = _Writes()
        return self

    def __torch_function__(
        self,
        func: Func,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        if self.where.is_inside and self.where.name not in self.layers:
            call = self._add(func.__name__, None, [*tensors_in([args, kwargs or {}])], output)
            if call is not None and func.__name__ == "group_norm":
                groups = args[1] if len(args) > 1 else (kwargs or {})["num_groups"]
                assert isinstance(groups, int)
                call.num_groups = groups
            elif call is not None and call.area > 1:
                call.borders = borders_of(func, args, kwargs or {})
            if call is not None:
                is_cut = func.__name__ not in _CUTS or bool(call.borders)
                self.writes.follow(call, args, output, func.__name__ in TABLE and is_cut)
                if works_in_place(func, kwargs or {}):
                    self.writes.write(call, args[0], func.__name__ in TABLE)
        return output

    def layer_hook(self, name: str) -> Callable[..., None]:
        def record(layer: nn.Module, inputs: object, output: object) -> None:
            self._add(name, layer, [*tensors_in(inputs)], output)

        return record

    def makers_of(self, value: object) -> set[Call]:
        """Returns the calls that made the tensors of a value."""
        made_by = (self._made.get(id(x)) for x in tensors_in(value))
        return {call for call in made_by if call is not None}

    def _add(
        self, name: str, layer: nn.Module | None, inputs: list[Value], output: object
    ) -> Call | None:
        outputs = [*tensors_in(output)]
        self.writes.use(inputs)
        if not outputs:
            return None
        made_by = [self._made.get(id(x)) for x in inputs]
        shapes = [x.shape for x in inputs]
        call = Call(name, self.where.name, layer, made_by, shapes, outputs[0].shape)
        self.calls.append(call)
        self._kept += outputs
        for maker in made_by:
            if maker is not None:
                maker.users.append(call)
        self._made.update({id(x): call for x in outputs})
        return call
