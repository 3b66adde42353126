"""The base of the errors that a user can mend."""


class UserError(ValueError):
    """Bad input: the message names the file, key or line, and says what to do.

    The tools print it without a traceback and exit with status 2.
    """


class NonFiniteError(UserError):
    """What a model gives for a video is nan or inf: its weights are lost, or half overflows."""
