"""Values that are written in a notation of their own."""

import re
from dataclasses import dataclass

_PART = re.compile(r"(m|n|mstd|inc|w)(\d+(?:\.\d+)?)")
_WHOLE = ("m", "n", "inc", "w")
_WEIGHTED_OPS = 13  # operations that the weights w0 leave a chance


@dataclass(frozen=True)
class RandAugmentSpec:
    """What ``rand-m9-n2-mstd0.5-inc1`` says, in the notation of timm and PySlowFast.

    magnitude (m): mean strength, from 0 to 10; num_ops (n): operations one after another;
    magnitude_std (mstd): deviation of the strength, drawn again for each operation; increasing
    (inc): each operation gets stronger with the magnitude; weighted (w0): operations are not
    equally likely, and none comes twice.
    """

    magnitude: int = 10
    num_ops: int = 2
    magnitude_std: float = 0.0
    increasing: bool = False
    weighted: bool = False


def parse_rand_augment(text: str) -> RandAugmentSpec:
    """Reads timm's notation of RandAugment; parts may be left out and come in any order.

    Raises:
        ValueError: it is another notation; the message says which part is wrong.
    """
    name, *parts = text.split("-")
    if name != "rand":
        raise ValueError("it must begin with 'rand', as in rand-m9-mstd0.5-inc1")
    values: dict[str, float] = {}
    for part in parts:
        match = _PART.fullmatch(part)
        if not match or match[1] in values or (match[1] in _WHOLE and "." in match[2]):
            raise ValueError(
                f"part {part!r} is none of m, n, mstd, inc and w with a number, each once"
            )
        values[match[1]] = float(match[2])
    if values.get("m", 0) > 10:
        raise ValueError("the magnitude m goes from 0 to 10")
    if values.get("inc", 0) > 1 or values.get("w", 0) > 0:
        raise ValueError("inc is 0 or 1, and w0 is the only table of weights")
    if "w" in values and values.get("n", 0) > _WEIGHTED_OPS:
        raise ValueError(f"w0 chooses among {_WEIGHTED_OPS} operations, each once: lower n")
    return RandAugmentSpec(
        magnitude=int(values.get("m", 10)),
        num_ops=int(values.get("n", 2)),
        magnitude_std=values.get("mstd", 0.0),
        increasing=bool(values.get("inc", 0)),
        weighted="w" in values,
    )
