"""What a row of the table of keys says: default, help, type, allowed values, effect on resuming."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from octvideo.config.values import Kind, leaves_of, show


class Resume(Enum):
    """What happens where a run resumes and a key has changed since its checkpoint was written."""

    REFUSED = "refused"  # another network or optimizer: the state does not fit
    WARNED = "warned"  # the run goes on, but is not the one that would not have been stopped
    FREE = "free"


@dataclass(frozen=True)
class Range:
    """Numbers that pass a test, of which ``text`` is the description."""

    text: str
    passes: Callable[[float], bool]

    def problem(self, value: object) -> str | None:
        """Returns why a value, or an entry of a list, is out of range; None where all is well."""
        numbers = (leaf for leaf in leaves_of(value) if isinstance(leaf, (int, float)))
        if all(map(self.passes, numbers)):
            return None
        return f"must be {self.text}, got {show(value)}"


@dataclass(frozen=True)
class Choices:
    """The values that a key may have; those of ``when`` count only where that key is True."""

    options: Collection[object]
    when: str = ""

    @property
    def text(self) -> str:
        return ", ".join(map(str, self.options))


@dataclass(frozen=True)
class Key:
    """A row of the table; ``entry`` is the type of the entries of a list that is empty."""

    default: object
    help: str
    allowed: Range | Choices | None = None
    resume: Resume | None = None  # None: as its section says
    entry: type | None = None
    ours: bool = False  # PySlowFast does not have it

    @property
    def kind(self) -> Kind:
        """The type that its values have."""
        return Kind.of(self.default, self.entry)


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value of ``key``, and what to set."""

    key: str
    text: str

    def __str__(self) -> str:
        return self.text


def one_of(*options: object, when: str = "") -> Choices:
    """Returns the allowed values of a key that has a few of them."""
    return Choices(options, when)


AT_LEAST_1 = Range("at least 1", lambda x: x >= 1)
AT_LEAST_0 = Range("0 or more", lambda x: x >= 0)
ABOVE_0 = Range("above 0", lambda x: x > 0)
BELOW_1 = Range("in [0, 1)", lambda x: 0 <= x < 1)
SHARE = Range("in (0, 1]", lambda x: 0 < x <= 1)
PROBABILITY = Range("in [0, 1]", lambda x: 0 <= x <= 1)
