"""Errors about data that the user can mend."""


class DataError(ValueError):
    """Something in the user's data is wrong.

    The message is one line: the file, what is wrong with it, and the remedy.
    Commands print it without a traceback and exit with status 1.
    """


class LfsPointerError(DataError):
    """The file is a git-LFS pointer: the clone it belongs to has no audio at all."""
