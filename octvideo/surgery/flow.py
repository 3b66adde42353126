"""Where a network can be octave: what follows from the flow of one example."""

import math
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from octvideo.layers import octave_kind, split_channels
from octvideo.layers.layout import Layout, concatenated, spread
from octvideo.layers.oct_functions import CHANNELWISE
from octvideo.layers.oct_tensor import TABLE
from octvideo.surgery.tracing import Call, Conv

MIN_SIDE = 4  # pixels: half of less is hardly a map
MIN_CHANNELS = 8
TAIL = 0.5  # share of the multiply-adds from which on the last resolution is the network's body


def multiply_adds(call: Call) -> int:
    """Returns the multiply-adds of a call as a vanilla convolution; a bias costs none."""
    conv = call.conv
    assert conv is not None
    kernel = math.prod(conv.kernel_size) * conv.in_channels // conv.groups
    return call.shape.numel() * kernel


def is_depthwise(conv: Conv | None) -> bool:
    return conv is not None and 1 < conv.groups == conv.in_channels


def why_not_octave(conv: Conv) -> str:
    """Returns why a convolution cannot be octave by itself, whatever its place; or ""."""
    if octave_kind(conv) is None:
        return f"{type(conv).__name__} has a forward pass of its own"
    if conv._forward_pre_hooks or conv._forward_hooks or "weight" not in conv._parameters:
        return "hooks or parametrisations change it"
    if conv.stride[-2:] not in ((1, 1), (2, 2)):
        return f"stride {conv.stride[-2:]}"
    if isinstance(conv.padding, str):
        return "" if conv.padding == "same" or conv.kernel_size[-2:] == (1, 1) else "no padding"
    sums = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)][-2:]
    if [2 * p for p in conv.padding[-2:]] != sums:
        return f"padding {conv.padding[-2:]} does not keep the size of {conv.kernel_size[-2:]}"
    return ""


@dataclass
class Tie:
    """Maps that share their low channels: sums, gates and norms connect them.

    Attributes:
        groups: of the grouped convolutions that take or make them.
        whole: channels of a group norm's group.
        cuts: where some of these maps are cut, or joined from others: each part has low channels
            of its own, so that it can be added to maps that come from elsewhere.
        is_part: whether the low channels of other ties are to be the same.
    """

    convs: list[Call] = field(default_factory=list)
    groups: int = 1
    whole: int = 1
    cuts: set[int] = field(default_factory=set)
    is_part: bool = False

    def layout(self, channels: int, alpha: float, multiple: int) -> Layout:
        """Returns which of a convolution's output channels are low; perhaps none.

        Args:
            multiple: the low channels are rounded to it; that of all groups together.
        """
        if self.groups > 1 or self.whole > 1:
            low = 0 if channels % self.groups else split_channels(channels, alpha, multiple).low
            return spread(channels, low, self.groups)
        borders = [0, *(cut for cut in sorted(self.cuts) if cut < channels), channels]
        sizes = [stop - start for start, stop in pairwise(borders)]
        return concatenated([spread(n, split_channels(n, alpha, multiple).low) for n in sizes])


class Flow:
    """The calls of a trace, and which of their maps share their low channels (see ``Tie``).

    Attributes:
        calls: in order; ``convs`` are those of convolutions over maps.
        last_area: the pixels of a map at the last resolution, where the authors' networks are
            plain again; 0 where most multiply-adds are at that resolution.
    """

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.convs = [c for c in calls if c.conv is not None and c.area > 1]
        self._parent: dict[Call, Call] = {}
        for call in calls:
            for source in self._tied(call):
                self._parent[self._root(source)] = self._root(call)
        self._ties: dict[Call, Tie] = {}
        for call in self.convs:
            if not is_depthwise(call.conv):
                self.tie(call).convs.append(call)
        self._collect_groups()
        self._cut(self._parts())
        self._next_convs: dict[Call, set[Call]] = {}
        for call in reversed(calls):
            follow: set[Call] = set()
            for user in call.users:
                is_conv = user.conv is not None and user.area > 1
                follow |= {user} if is_conv else self._next_convs[user]
            self._next_convs[call] = follow
        self.has_conv_before: set[Call] = set()
        for call in calls:
            if any(c is not None and (c.conv or c in self.has_conv_before) for c in call.inputs):
                self.has_conv_before.add(call)
        self.last_area = self._last_area()

    def tie(self, call: Call) -> Tie:
        return self._ties.setdefault(self._root(call), Tie())

    def next_convs(self, call: Call) -> set[Call]:
        """Returns the convolutions that take the result, with no other one between."""
        return self._next_convs[call]

    def why_written(self) -> dict[str, str]:
        """Returns, by name, which convolutions would lose what is written into their outputs."""
        reasons: dict[str, str] = {}
        for writer in self.calls:
            before, seen = [writer] if writer.is_lost else [], set[Call]()
            while before:
                for source in before.pop().inputs:
                    if source is None or source in seen:
                        continue
                    seen.add(source)
                    if source.conv is not None and not is_depthwise(source.conv):
                        reasons[source.name] = f"{writer.name} writes into a part of its output"
                    else:
                        before.append(source)
        return reasons

    def is_joined(self, call: Call) -> bool:
        """Returns whether the output of other convolutions is added to this one's."""
        return len({c.name for c in self.tie(call).convs}) > 1

    def _root(self, call: Call) -> Call:
        while (parent := self._parent.get(call, call)) is not call:
            call = parent
        return call

    def _tied(self, call: Call) -> list[Call]:
        """Returns the sources whose channels are the channels of this call's output."""
        keeps = is_depthwise(call.conv) if call.conv is not None else call.name in CHANNELWISE
        if not keeps or len(call.shape) < 4 or call.area == 1:
            return []
        return [
            source
            for source, shape in zip(call.inputs, call.input_shapes, strict=True)
            if source is not None
            and len(shape) == len(call.shape)
            and shape[-2:].numel() > 1
            and call.shape[1] % shape[1] == 0
        ]

    def _collect_groups(self) -> None:
        for call in self.calls:
            conv = call.conv
            sources = [source for source in call.inputs if source is not None]
            if conv is not None and conv.groups > 1 and not is_depthwise(conv):
                for tie in map(self.tie, [call, *sources]):
                    tie.groups = math.lcm(tie.groups, conv.groups)
            elif call.name == "group_norm":
                for tie in map(self.tie, sources):
                    tie.whole = math.lcm(tie.whole, call.shape[1] // call.num_groups)

    def _parts(self) -> list[tuple[Call, Call, int, int]]:
        """Returns (whole, part, start, stop): the part has channels [start, stop) of the whole."""
        parts = []
        for call in self.calls:
            source = call.inputs[0] if call.inputs else None
            if source is not None:
                parts += [(source, call, start, stop) for start, stop in pairwise(call.borders)]
            if TABLE.get(call.name) is TABLE["cat"] and call.area > 1:
                channels = [shape[1] for shape in call.input_shapes]
                borders = [*accumulate(channels, initial=0)]
                if borders[-1] == call.shape[1]:  # else along another axis
                    parts += [
                        (call, part, start, stop)
                        for part, (start, stop) in zip(call.inputs, pairwise(borders), strict=True)
                        if part is not None
                    ]
        return parts

    def _cut(self, parts: list[tuple[Call, Call, int, int]]) -> None:
        """Carries cuts from wholes to their parts and back, until nothing changes."""
        before = -1
        while before != (before := sum(len(tie.cuts) for tie in self._ties.values())):
            for call, piece, start, stop in parts:
                whole, part = self.tie(call), self.tie(piece)
                inside = {start + cut for cut in part.cuts if cut < stop - start}
                whole.cuts |= {start, stop} - {0, call.shape[1]} | inside
                part.cuts |= {cut - start for cut in whole.cuts if start < cut < stop}
                if whole.convs:
                    whole.is_part = part.is_part = True

    def _last_area(self) -> int:
        totals: dict[int, int] = {}
        for call in self.convs:
            totals[call.area] = totals.get(call.area, 0) + multiply_adds(call)
        total = sum(totals.values())
        for area, count in sorted(totals.items()):
            if count > 0.01 * total:  # less is a side branch
                return area if count < TAIL * total else 0
        return 0
