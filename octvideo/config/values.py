"""Values of configuration keys: what type a key expects, and how a given value becomes it."""

import reprlib
import sys
from ast import literal_eval
from dataclasses import dataclass

import yaml

_ONE = {bool: "True or False", int: "an integer", float: "a number", str: "text"}
_MANY = {bool: "True or False", int: "integers", float: "numbers", str: "texts"}

_REPR = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 40
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 200


class WrongTypeError(ValueError):
    """A value that cannot become what its key expects."""


@dataclass(frozen=True)
class Kind:
    """What a key expects: a scalar of type ``leaf``, or lists of it nested ``depth`` times."""

    leaf: type
    depth: int = 0
    container: type = list
    optional: bool = False

    @classmethod
    def of(cls, default: object, entry_type: type | None = None) -> "Kind":
        """Returns the kind of a default value; ``entry_type`` is that of an empty list."""
        if default is None:  # all optional keys are numbers
            return cls(float, optional=True)
        container, depth, entry = type(default), 0, default
        while isinstance(entry, (list, tuple)):
            depth += 1
            if not entry:
                assert entry_type is not None, "an empty default needs the type of its entries"
                return cls(entry_type, depth, container)
            entry = entry[0]
        return cls(type(entry), depth, container if depth else list)

    def __str__(self) -> str:
        if not self.depth:
            return _ONE[self.leaf] + (" or None" if self.optional else "")
        return "a list of " + "lists of " * (self.depth - 1) + _MANY[self.leaf]

    def convert(self, value: object) -> object:
        """Returns the value in the type that is expected.

        Text is read as a Python or YAML literal where the key does not hold text, integers
        become floats and tuples become lists where those are expected, and the reverse.

        Raises:
            WrongTypeError: the value is something else.
        """
        if isinstance(value, str) and (self.depth or self.leaf is not str):
            value = decode(value)
        if value is None and self.optional:
            return None
        if not self.depth:
            return self._convert_leaf(value)
        return self.container(self._convert_entries(value, self.depth))

    def _convert_entries(self, value: object, depth: int) -> list[object]:
        if not isinstance(value, (list, tuple)):
            raise WrongTypeError
        if depth > 1:
            return [self._convert_entries(entry, depth - 1) for entry in value]
        return [
            self._convert_leaf(
                decode(entry) if isinstance(entry, str) and self.leaf is not str else entry
            )
            for entry in value
        ]

    def _convert_leaf(self, value: object) -> object:
        if self.leaf is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            if abs(value) <= sys.float_info.max:  # neither nan nor infinite
                return float(value)
        elif type(value) is self.leaf:
            return value
        raise WrongTypeError


def decode(text: str) -> object:
    """Reads text as a Python literal ("(1, 2)", "1e-4", "None"), else as YAML ("true", "[a]").

    What is neither stays text.
    """
    try:
        return literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError):
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: an impossible date
        return text


def leaves_of(value: object) -> list[object]:
    """Returns the entries of nested lists in one list; a scalar is a list of one."""
    if not isinstance(value, (list, tuple)):
        return [value]
    return [leaf for entry in value for leaf in leaves_of(entry)]


def show(value: object, limit: int = 80) -> str:
    """Returns ``repr`` of a value, cut to a line; bounded also where lists contain each other."""
    text = _REPR.repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
