"""User errors, reported in one line without a traceback.

The message names the file or setting, the problem, and the remedy.
Commands print it and exit with status 1.
"""

LFS_MAGIC = b"version https://git-lfs"  # first bytes of a git-LFS pointer


def one_line(error: Exception) -> str:
    """Return an error's message, even if it was raised in a PyTorch worker process.

    PyTorch re-raises the same class, with the worker's traceback before the message.
    """
    message = str(error).rstrip()
    if message.startswith("Caught "):
        kind = f"{type(error).__module__}.{type(error).__name__}: "
        message = message.rpartition("\n")[2].removeprefix(kind)
    return message


class UserError(ValueError):
    """Error that the user can fix; its message is always converted to one line."""

    def __init__(self, message: object = ""):
        text = str(message)
        if not text.startswith("Caught "):  # by PyTorch: see one_line()
            text = " ".join(text.splitlines())
        super().__init__(text)


class ConfigError(UserError):
    """Invalid setting."""


class DataError(UserError):
    """Invalid user data."""


class RankError(UserError):
    """Another process of a distributed training has ended."""


class StorageError(DataError):
    """A file cannot be written; its previous content is kept."""


class LfsPointerError(DataError):
    """The file is a git-LFS pointer, so its clone contains no audio at all."""


class DamagedAudioError(DataError):
    """Audio cannot be decoded."""


class SampleRateError(DataError):
    """Audio has an unexpected sample rate; some commands convert it."""
