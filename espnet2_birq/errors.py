"""Errors that are the user's to mend.

Their message is one line: the file or setting, what is wrong with it, and the remedy.
Commands print it without a traceback and exit with status 1.
"""

LFS_MAGIC = b"version https://git-lfs"  # what a git-LFS pointer begins with


def one_line(error: Exception) -> str:
    """Return an error's message, also of one from a worker process of PyTorch.

    PyTorch raises the same class again, with that process's traceback before it.
    """
    message = str(error).rstrip()
    if message.startswith("Caught "):
        kind = f"{type(error).__module__}.{type(error).__name__}: "
        message = message.rpartition("\n")[2].removeprefix(kind)
    return message


class ConfigError(ValueError):
    """A wrong setting."""


class DataError(ValueError):
    """Something in the user's data is wrong."""


class LfsPointerError(DataError):
    """The file is a git-LFS pointer: the clone it belongs to has no audio at all."""


class SampleRateError(DataError):
    """Audio has another sample rate than the wanted one; some commands convert it."""
