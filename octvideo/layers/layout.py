"""Which channels of a tensor an octave value holds at low resolution.

Weights keep the vanilla order of their channels. Low channels come first where a convolution makes
them, [L | H]; but behind a concatenation the order is [L1 | H1 | L2 | H2], and where convolutions
have groups, each group has low channels of its own. A value that knows its layout lets every layer
pick its weights, so no weight has to move.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MANY = 16  # ranges from which on one index is quicker than pieces
Runs = tuple[tuple[int, int], ...]


class Layout(NamedTuple):
    """The low channels among all channels of a tensor, as ranges [start, stop) in order."""

    total: int
    low: Runs

    @property
    def high(self) -> Runs:
        starts = [0, *(stop for _, stop in self.low)]
        stops = [*(start for start, _ in self.low), self.total]
        return tuple((a, b) for a, b in zip(starts, stops, strict=True) if a < b)

    @property
    def num_low(self) -> int:
        return sum(stop - start for start, stop in self.low)

    @property
    def is_first(self) -> bool:
        """Whether the low channels are the first: then the order is [L | H]."""
        return not self.low or self.low == ((0, self.num_low),)

    @property
    def by_frequency(self) -> Runs:
        """All channels, the low ones first."""
        return self.low + self.high

    def section(self, start: int, stop: int) -> "Layout":
        """Returns the layout of the channels from ``start`` to ``stop``."""
        low = [(max(a, start) - start, min(b, stop) - start) for a, b in self.low]
        return Layout(stop - start, tuple((a, b) for a, b in low if a < b))

    def repeated(self, times: int) -> "Layout":
        """Returns the layout where each channel is followed by copies of its own."""
        return Layout(times * self.total, tuple((times * a, times * b) for a, b in self.low))

    def in_groups(self, groups: int) -> "list[Layout]":
        """Returns the layouts of equal groups of channels."""
        size = self.total // groups
        return [self.section(g * size, g * size + size) for g in range(groups)]

    def indices(self) -> list[int]:
        """Returns all channels one by one, the low ones first."""
        return [c for start, stop in self.by_frequency for c in range(start, stop)]


def spread(total: int, low: int, groups: int = 1) -> Layout:
    """Returns the layout whose low channels are the first of each group of channels."""
    size, each = total // groups, low // groups
    return Layout(total, tuple((g * size, g * size + each) for g in range(groups) if each))


def of_channels(total: int, low: Iterable[int]) -> Layout:
    """Returns the layout with these low channels."""
    runs: list[tuple[int, int]] = []
    for channel in sorted(low):
        if runs and runs[-1][1] == channel:
            runs[-1] = (runs[-1][0], channel + 1)
        else:
            runs.append((channel, channel + 1))
    return Layout(total, tuple(runs))


def concatenated(layouts: Sequence[Layout]) -> Layout:
    """Returns the layout of a concatenation along the channels."""
    low: list[tuple[int, int]] = []
    start = 0
    for layout in layouts:
        for a, b in layout.low:
            if low and low[-1][1] == start + a:
                low[-1] = (low[-1][0], start + b)
            else:
                low.append((start + a, start + b))
        start += layout.total
    return Layout(start, tuple(low))


def take(t: Tensor, runs: Runs, dim: int = 0) -> Tensor:
    """Returns these ranges of ``t`` along ``dim``, one after another; one range is a view."""
    if len(runs) > MANY:
        index = [c for start, stop in runs for c in range(start, stop)]
        return t.index_select(dim, torch.tensor(index, device=t.device))
    parts = [t.narrow(dim, start, stop - start) for start, stop in runs]
    if not parts:
        return t.narrow(dim, 0, 0)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def in_order(low: Tensor, high: Tensor, layout: Layout, dim: int = 1) -> Tensor:
    """Returns the channels of ``low`` and ``high`` in the order of the tensor."""
    if layout.is_first:
        return torch.cat([low, high], dim)
    if len(layout.low) > MANY:
        order = sorted(range(layout.total), key=layout.indices().__getitem__)
        return torch.cat([low, high], dim).index_select(dim, torch.tensor(order, device=low.device))
    places = []
    for runs, part in ((layout.low, low), (layout.high, high)):
        offset = 0
        for start, stop in runs:
            places.append((start, part.narrow(dim, offset, stop - start)))
            offset += stop - start
    return torch.cat([piece for _, piece in sorted(places, key=lambda place: place[0])], dim)


@torch.no_grad()
def put(t: Tensor | None, values: Tensor | None, runs: Runs) -> None:
    """Writes ``values`` into these ranges of ``t`` (C,), the inverse of ``take``."""
    if t is None or values is None:
        return
    offset = 0
    for start, stop in runs:
        t[start:stop] = values[offset : offset + stop - start]
        offset += stop - start
