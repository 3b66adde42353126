"""How many channels of a map are high and how many low: the one place where alpha meets a count."""

import operator
from typing import NamedTuple


class Channels(NamedTuple):
    """The channel counts of an octave value; ``low`` is 0 for a plain tensor."""

    high: int
    low: int = 0

    @property
    def total(self) -> int:
        return self.high + self.low


def split_channels(channels: int, alpha: float, divisor: int = 1) -> Channels:
    """Splits a channel count into ``Channels(high, low)``; 64 at .1 gives (58, 6).

    The low part is ``int(alpha * channels)``, the rule of the authors' code, rounded to the
    nearest multiple of ``divisor`` (1: the paper; 8: sizes that GPUs like). Everywhere else the
    pair is passed on.

    Raises:
        ValueError: alpha is not in [0, 1), or a count is below 1.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}")
    if divisor < 1:
        raise ValueError(f"the channel divisor must be at least 1, got {divisor}")
    if channels < 1:
        raise ValueError(f"a channel count must be at least 1, got {channels}")
    low = divisor * int(int(alpha * channels) / divisor + 0.5)
    if low >= channels:  # rounded up to nothing but low channels
        low -= divisor
    return Channels(channels - low, low)


def as_channels(channels: int | tuple[int, int], alpha: float) -> Channels:
    """Returns a count split by alpha, or the pair (high, low) itself."""
    if not isinstance(channels, tuple):
        return split_channels(operator.index(channels), alpha)
    if len(channels) != 2:
        raise ValueError(f"channels are a count or a pair (high, low), got {channels}")
    if alpha:
        raise ValueError(f"channels {channels} are split already: leave out alpha = {alpha}")
    return Channels(*channels)
