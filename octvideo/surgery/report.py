"""What became of each layer of a network, what it costs, and where octave values are merged."""

import json
import math
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from octvideo.layers import OctConv2d, OctConv3d, OctTensor, Value, maps_of
from octvideo.layers.oct_tensor import merges_to
from octvideo.layers.resample import half_size
from octvideo.surgery.tracing import CurrentModule, Example, Func, run

RECORD = "_octave_record"  # the attribute of an octavized network
_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    OctConv2d,
    OctConv3d,
)
Layer = nn.Conv2d | nn.Conv3d | nn.Linear | OctConv2d | OctConv3d  # or of one axis, or transposed
_COSTS = ("GMACs before", "after", "ratio", "M act. before", "after")
_FUNCTIONAL = ("conv1d", "conv2d", "conv3d", "linear")


@dataclass(frozen=True)
class Merge:
    """A place where an octave value becomes one tensor, at the cost of what the octave saves."""

    function: str
    module: str


@dataclass
class OctaveRecord:
    """What ``octavize`` notes on a network: why layers make no low channels, and the merges."""

    reasons: dict[str, str] = field(default_factory=dict)
    merges: list[Merge] = field(default_factory=list)


@dataclass
class Row:
    """One convolution or linear layer.

    Attributes:
        channels: of its input and output, (high, low) each.
        vanilla_macs, macs: multiply-adds for one pass of the example, before and now.
        vanilla_activations, activations: elements of its output, before and now.
        is_octave: whether it takes or makes low channels.
        reason: why it makes none.
    """

    name: str
    kind: str
    channels: tuple[tuple[int, int], tuple[int, int]]
    vanilla_macs: int
    macs: int
    vanilla_activations: int
    activations: int
    is_octave: bool
    reason: str


@dataclass
class Summary:
    """The cost of a network by layer, beside the cost of the vanilla one.

    ``str`` gives a table by stage, ``table()`` one by layer, ``to_json()`` everything.
    """

    rows: list[Row]
    merges: list[Merge]

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    @property
    def vanilla_macs(self) -> int:
        return sum(row.vanilla_macs for row in self.rows)

    @property
    def ratio(self) -> float:
        """The multiply-adds as a share of the vanilla network's."""
        return self.macs / self.vanilla_macs if self.vanilla_macs else 1.0

    def stages(self) -> dict[str, list[Row]]:
        """Returns the rows by stage: the parts of the network that are called in turn."""
        depth = 1
        while len({_stage(row.name, depth) for row in self.rows}) < 3 and depth < 4:
            depth += 1
        stages: dict[str, list[Row]] = {}
        for row in self.rows:
            stages.setdefault(_stage(row.name, depth), []).append(row)
        return stages

    def __str__(self) -> str:
        lines = [_line("stage", "octave", *_COSTS)]
        for stage, rows in {**self.stages(), "total": self.rows}.items():
            octave = f"{sum(row.is_octave for row in rows)} of {len(rows)}"
            lines.append(_line(stage, octave, *_costs(rows)))
        return "\n".join([*lines, "", *self._merge_lines()])

    def table(self) -> str:
        """Returns a line for each layer: channels, costs, and why it is vanilla."""
        lines = [_line("layer", "channels", *_COSTS)]
        for row in self.rows:
            channels = " -> ".join(f"{h}+{low}" if low else str(h) for h, low in row.channels)
            lines.append(_line(row.name, channels, *_costs([row])) + f"  {row.reason}")
        return "\n".join([*lines, "", *self._merge_lines()])

    def _merge_lines(self) -> list[str]:
        if not self.merges:
            return ["Octave values are merged nowhere but where layers leave the octave."]
        lines = ["Octave values are merged by:"]
        for merge, times in Counter(self.merges).items():
            lines.append(f"  {merge.function} in {merge.module or 'the network itself'} ({times}x)")
        return lines

    def to_dict(self) -> dict[str, object]:
        """Returns everything as plain values."""
        return {
            "vanilla_macs": self.vanilla_macs,
            "macs": self.macs,
            "ratio": self.ratio,
            "layers": [asdict(row) for row in self.rows],
            "merges": [asdict(merge) for merge in self.merges],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict())


def summary(model: nn.Module, example: Example | None = None) -> Summary:
    """Counts what a network, octave or vanilla, costs for one example, layer by layer.

    Convolutions and linear layers count, 1 multiply-add each; biases, norms and pooling do not.

    Args:
        example: as of ``octavize``.

    Raises:
        ValueError: the network does not take the example.
    """
    if example is None:
        from octvideo.surgery.octavizing import example_for

        example = example_for(model)
    record = getattr(model, RECORD, OctaveRecord())
    where = CurrentModule()
    merges: list[Merge] = []
    counter = _Counter(where, record)
    with ExitStack() as hooks, where.follow(model):
        for name, module in model.named_modules():
            if isinstance(module, _LAYERS):
                hooks.callback(module.register_forward_hook(counter.hook(name)).remove)
        hooks.enter_context(merges_to(lambda function: merges.append(Merge(function, where.name))))
        with counter:
            run(model, example)
    return Summary(counter.rows, merges)


class _Counter(TorchFunctionMode):
    """Counts layers by hooks, and functional convolutions where they are called."""

    def __init__(self, where: CurrentModule, record: OctaveRecord) -> None:
        super().__init__()
        self.where, self.record = where, record
        self.rows: list[Row] = []
        self.layers: set[str] = set()

    def __torch_function__(
        self,
        func: Func,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        module = self.where.name
        if func.__name__ in _FUNCTIONAL and module not in self.layers:
            x, weight = (*args, *(kwargs or {}).values())[:2]
            assert isinstance(x, (Tensor, OctTensor))  # which is merged
            assert isinstance(weight, Tensor)
            assert isinstance(output, Tensor)
            macs = output.numel() * weight[0].numel()
            counts = (x.shape[1], 0), (output.shape[1], 0)
            size, reason = output.numel(), f"F.{func.__name__}, a function"
            name = f"{module}:{func.__name__}".lstrip(":")
            self.rows.append(
                Row(name, func.__name__, counts, macs, macs, size, size, False, reason)
            )
        return output

    def hook(self, name: str) -> Callable[..., None]:
        self.layers.add(name)

        def count(layer: Layer, inputs: tuple[Value, ...], output: Value) -> None:
            x = inputs[0] if inputs else output
            self.rows.append(_row(name, layer, x, output, self.record.reasons.get(name, "")))

        return count


def _row(name: str, layer: Layer, x: Value, y: Value, reason: str) -> Row:
    size, kind = y.shape.numel(), type(layer).__name__
    if isinstance(layer, (OctConv2d, OctConv3d)):
        vanilla = size * math.prod(layer.kernel_size) * layer.in_channels // layer.groups
        now = sum(n.numel() for n in maps_of(y))
        return Row(
            name, kind, (_channels(x), _channels(y)), vanilla, octave_macs(layer, x, y), size, now,
            not layer.is_plain, reason,
        )  # fmt: skip
    weight = layer.weight
    positions = x.shape.numel() if "Transpose" in kind else size
    macs = positions * weight[0].numel()
    return Row(name, kind, (_channels(x), _channels(y)), macs, macs, size, size, False, reason)


def _channels(x: Value) -> tuple[int, int]:
    if isinstance(x, OctTensor):
        return x.channels.high, x.channels.low
    return x.shape[min(1, x.ndim - 1)] if x.ndim > 2 else x.shape[-1], 0


def octave_macs(layer: OctConv2d | OctConv3d, x: Value, y: Value) -> int:
    """Returns the multiply-adds of an octave convolution: of its four paths, at their sizes."""
    (h_in, l_in), (h_out, l_out) = _channels(x), _channels(y)
    high = y.high if isinstance(y, OctTensor) else y
    kernel, batch = math.prod(layer.kernel_size), high.shape[0]
    fine = batch * high.shape[2:].numel()
    coarse = batch * half_size(high.shape[2:]).numel()
    if layer.is_depthwise:
        return kernel * (h_out * fine + l_out * coarse)
    cross = fine if layer.stride[-2:] == (2, 2) else coarse  # L -> H is convolved small
    to_high = h_out * (h_in * fine + l_in * cross)
    return kernel * (to_high + l_out * (h_in + l_in) * coarse) // layer.groups


def _stage(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _costs(rows: list[Row]) -> tuple[str, ...]:
    before, after = sum(row.vanilla_macs for row in rows), sum(row.macs for row in rows)
    sizes = sum(row.vanilla_activations for row in rows), sum(row.activations for row in rows)
    ratio = f"{after / before:.3f}" if before else "-"
    return (
        f"{before / 1e9:.4f}",
        f"{after / 1e9:.4f}",
        ratio,
        *(f"{size / 1e6:.3f}" for size in sizes),
    )


def _line(name: str, *columns: str) -> str:
    return f"{name:32}" + "".join(f"{column:>15}" for column in columns)
