"""Records (frozen dataclasses) as plain values, for files, and back, with every value checked."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(record: object) -> dict[str, object]:
    """Returns a record as a dict of numbers, texts, lists and dicts."""
    assert is_dataclass(record)
    return {field.name: plain_value(getattr(record, field.name)) for field in fields(record)}


def plain_value(value: object) -> object:
    """Returns what stands in a file for a value of a record."""
    if is_dataclass(value):
        return to_plain(value)
    return [plain_value(v) for v in value] if isinstance(value, (list, tuple)) else value


def from_plain(cls: type[T], values: object, place: str = "") -> T:
    """Returns the record of a class that `to_plain` has made ``values`` of.

    Fields that are missing have their defaults.

    Raises:
        ValueError: a field is unknown or not of its type; names it, within ``place``.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{place or cls.__name__} must be a dict, got {values!r:.60}")
    hints = get_type_hints(cls)
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(str(name) for name in set(values) - known):
        raise ValueError(f"{place}{unknown[0]} is no field of {cls.__name__}")
    return cls(**{name: _typed(hints[name], v, f"{place}{name}") for name, v in values.items()})


def _typed(hint: Any, value: object, name: str) -> object:
    """Returns a value as its type wants it: lists as tuples, whole numbers as floats."""
    if get_origin(hint) in (Union, UnionType):
        if value is None and NoneType in get_args(hint):
            return None
        [hint] = [option for option in get_args(hint) if option is not NoneType]
    if is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, f"{name}.")
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        options = get_args(hint)
        if options[1:] == (...,):
            options = options[:1] * len(value)
        if len(options) == len(value):
            return tuple(_typed(h, v, name) for h, v in zip(options, value, strict=True))
    elif hasattr(hint, "_fields") and isinstance(value, (list, tuple)):  # a NamedTuple
        return hint(*value)
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise ValueError(f"{name} must be {getattr(hint, '__name__', hint)}, got {value!r:.60}")
