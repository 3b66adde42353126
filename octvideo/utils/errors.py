"""The base class of errors that a user can fix."""


class UserError(ValueError):
    """The input is wrong: the message names the file, key or line, and says what to do.

    The tools print it without a traceback and exit with status 2.
    """


class NonFiniteError(UserError):
    """A model's scores for a video are nan or inf: its weights are lost, or half overflows."""
