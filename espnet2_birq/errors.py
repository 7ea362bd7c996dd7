"""Errors that are the user's to mend.

Their message is one line: the file or setting, what is wrong with it, and the remedy.
Commands print it without a traceback and exit with status 1.
"""


class ConfigError(ValueError):
    """A wrong setting."""


class DataError(ValueError):
    """Something in the user's data is wrong."""


class LfsPointerError(DataError):
    """The file is a git-LFS pointer: the clone it belongs to has no audio at all."""
