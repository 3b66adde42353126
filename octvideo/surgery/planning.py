"""The default placement: which convolutions of a network become octave, and why the others do not.

It follows the paper and its authors' code. The first convolution takes pixels and stays as it is.
The last resolution stays plain: its maps are small, and the head takes one tensor. What leads into
it leaves the octave.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from octvideo.layers import Placement
from octvideo.layers.layout import Layout, Runs
from octvideo.surgery.flow import (
    MIN_CHANNELS,
    MIN_SIDE,
    Flow,
    is_depthwise,
    multiply_adds,
    why_not_octave,
)
from octvideo.surgery.tracing import Call

Channels = Mapping[str, Runs]  # ranges of low channels, by the name of a convolution
Choice = str | Sequence[str] | Callable[[str], bool] | Channels
Alpha = float | Callable[[str], float]


@dataclass
class Plan:
    """Which convolutions are octave.

    Attributes:
        low: the layout of the output of each convolution that makes low channels.
        reasons: why each of the others makes none.
        pools: convolutions that pool for their stride.
        capable: convolutions that may take octave values.
    """

    low: dict[str, Layout] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    pools: set[str] = field(default_factory=set)
    capable: set[str] = field(default_factory=set)

    def placement(self) -> Placement:
        """Returns the plan in the form that ``octvideo.layers.octavize`` takes."""
        return Placement(
            is_octave=lambda name: name in self.low,
            alpha=0.0,
            layout=lambda name, channels: self.low.get(name, Layout(channels, ())),
            pools=lambda name: name in self.pools,
            is_candidate=lambda name: name in self.capable,
        )


def plan(
    flow: Flow,
    alpha: Alpha,
    where: Choice,
    divisor: int = 1,
    pool_stride: bool | None = None,
    exclude: Choice = (),
) -> Plan:
    """Chooses the octave convolutions of a network.

    Args:
        flow: of the network's trace.
        alpha: share of low channels, in [0, 1), or a function of a convolution's name.
        where: "default" leaves the last resolution plain, "end" only the last convolutions;
            patterns of names as for ``fnmatch``, a function of a name, or the channels themselves.
        exclude: patterns or a function, for convolutions that make no low channels in any case.
        pool_stride: see ``octavize``.
    """
    is_default = isinstance(where, str) and where in ("default", "end")
    chosen = None if is_default else _chooser(where, flow)
    excluded = _chooser(exclude, flow)
    written = flow.why_written()
    result = Plan()
    for name, call in _largest_calls(flow).items():
        assert call.conv is not None
        reason = why_not_octave(call.conv)
        if not reason:
            result.capable.add(name)
            reason = "excluded" if excluded(name) else _why_plain_here(flow, call, where, chosen)
            reason = reason or written.get(name, "")
        if isinstance(where, Mapping):
            if name in where and not reason:
                result.low[name] = Layout(call.shape[1], tuple((a, b) for a, b in where[name]))
        elif not reason and not is_depthwise(call.conv):
            tie, channels = flow.tie(call), call.shape[1]
            share = alpha(name) if callable(alpha) else alpha
            multiple = math.lcm(divisor, tie.groups, tie.whole)
            layout = tie.layout(channels, share, multiple)
            if layout.low:
                result.low[name] = layout
            else:
                reason = f"{channels} channels have no low ones in multiples of {multiple}"
        if reason:
            result.reasons[name] = reason
    if pool_stride is None:
        pool_stride = any(len(call.shape) == 4 for call in flow.convs)
    if pool_stride:
        result.pools = _pooling(flow, result)
    return result


def _largest_calls(flow: Flow) -> dict[str, Call]:
    """Returns the call with the most multiply-adds of each convolution, which may run often."""
    largest: dict[str, Call] = {}
    for call in flow.calls:
        if call.conv is not None:
            largest[call.name] = max(largest.get(call.name, call), call, key=multiply_adds)
    return largest


def _chooser(where: Choice, flow: Flow) -> Callable[[str], bool]:
    if callable(where):
        return where
    patterns = [where] if isinstance(where, str) else [*where]
    names = {call.name for call in flow.convs}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"placement {pattern!r} matches no convolution; there are {_some(sorted(names))}"
            )
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: Iterable[str]) -> str:
    first = [*names]
    return ", ".join(first[:6]) + (", ..." if len(first) > 6 else "")


def _why_plain_here(
    flow: Flow, call: Call, where: Choice, chosen: Callable[[str], bool] | None
) -> str:
    """Returns why a convolution makes no low channels at its place, or ""."""
    if chosen is not None:
        return "" if chosen(call.name) else "not in the placement"
    if call not in flow.has_conv_before:
        return "the first convolution"
    if min(call.shape[-2:]) < MIN_SIDE:
        return f"a map of {call.shape[-2]}x{call.shape[-1]}"
    if call.shape[1] < MIN_CHANNELS:
        return f"{call.shape[1]} channels"
    following = flow.next_convs(call)
    if not following:
        return "no convolution follows"
    if where == "default" and flow.last_area:
        if call.area <= flow.last_area:
            return "the last resolution"
        if not flow.is_joined(call) and all(c.area <= flow.last_area for c in following):
            return "the last resolution follows"
    return ""


def _pooling(flow: Flow, plan: Plan) -> set[str]:
    """Returns the plain convolutions with a stride right behind one that leaves the octave."""
    octave: set[Call] = set()  # calls whose output has low channels
    left: set[Call] = set()  # calls that have left the octave, until something is added
    pools = set()
    for call in flow.calls:
        sources = [source for source in call.inputs if source is not None]
        takes_octave = any(source in octave for source in sources)
        if call.conv is None:
            if takes_octave and len(call.shape) >= 4 and call.area > 1:
                octave.add(call)
            elif len(sources) == 1 and sources[0] in left:
                left.add(call)
            continue
        if call.name in plan.low or (is_depthwise(call.conv) and takes_octave):
            octave.add(call)
        elif takes_octave:
            left.add(call)
        elif (
            any(source in left for source in sources)
            and call.conv.stride[-2:] == (2, 2)
            and call.name in plan.capable
        ):
            pools.add(call.name)
    return pools
