"""The base class of errors that a user can fix, and a check that many share."""

from collections.abc import Collection


class UserError(ValueError):
    """The input is wrong: the message names the file, key or line, and says what to do.

    The tools print it without a traceback and exit with status 2.
    """


class NonFiniteError(UserError):
    """A model's scores for a video are nan or inf: its weights are lost, or half overflows."""


def first_line(error: Exception) -> str:
    """Returns what another library says in an error, short enough for a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check_known(what: str, value: object, known: Collection[object]) -> None:
    """Raises ValueError unless a value is among those that are known."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(map(str, known))}")
