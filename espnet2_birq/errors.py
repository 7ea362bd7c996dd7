"""User errors, reported in one line without a traceback.

The message names the file or setting, the problem, and the remedy.
Commands print it and exit with status 1.
"""

LFS_MAGIC = b"version https://git-lfs"  # first bytes of a git-LFS pointer


def one_line(error: Exception) -> str:
    """Return an error's message, also for errors from PyTorch worker processes.

    PyTorch re-raises the same class, with the worker's traceback before the message.
    """
    message = str(error).rstrip()
    if message.startswith("Caught "):
        kind = f"{type(error).__module__}.{type(error).__name__}: "
        message = message.rpartition("\n")[2].removeprefix(kind)
    return message


class ConfigError(ValueError):
    """Invalid setting."""


class DataError(ValueError):
    """Invalid user data."""


class StorageError(DataError):
    """A file cannot be written; what was there before is kept."""


class LfsPointerError(DataError):
    """The file is a git-LFS pointer: its clone contains no audio at all."""


class SampleRateError(DataError):
    """Audio has an unexpected sample rate; some commands convert it."""
