"""Reading of untrusted text, JSON, YAML and arrays, with one-line errors.

The error that a library raises for a damaged file depends on where the damage is. All
possible errors are therefore caught, but only around the library's call.
"""

import errno
import gzip
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from espnet2_birq.errors import ConfigError, DataError

AGAIN = "copy it again, or make it again"
LONGEST_LINE = 1 << 26  # characters; a longer line is an archive bomb or not text
DAMAGE = (
    *(ValueError, LookupError, ArithmeticError, TypeError, AttributeError),
    *(EOFError, SyntaxError, RuntimeError, MemoryError, AssertionError),
    *(zlib.error, zipfile.BadZipFile, struct.error),
    *(yaml.YAMLError, pickle.UnpicklingError),
)


@contextmanager
def refusing(
    path: str | Path,
    what: str,
    remedy: str = AGAIN,
    kind: type[ConfigError] | type[DataError] = DataError,
) -> Iterator[None]:
    """Report errors raised in this context as an error about a damaged file.

    Args:
        path: The file.
        what: Description of the fault, e.g. "no JSON".
        remedy: Advice to the user.
        kind: Class of the error to raise.

    Raises:
        ConfigError, DataError: The file is damaged; `kind` is the class.
    """
    try:
        yield
    except (ConfigError, DataError):
        raise
    except (OSError, *DAMAGE) as error:
        # Among system errors, only these can stem from the content of a damaged file.
        known = (None, errno.EINVAL, errno.ENAMETOOLONG)
        if isinstance(error, OSError) and error.errno not in known:
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise kind(f"{path}: {what} ({why}); {remedy}") from error


def read_text(path: Path, remedy: str = AGAIN) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        DataError: The file is not UTF-8.
    """
    with refusing(path, "not UTF-8", remedy):
        return path.read_text(encoding="utf-8-sig")


def read_lines(path: Path, remedy: str = AGAIN) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, unpacking it if its name ends with .gz.

    Raises:
        DataError: The file is not UTF-8, is damaged, or has an absurdly long line.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with refusing(path, "not readable as UTF-8 text", remedy):
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as stream:
            while line := stream.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise ValueError(f"a line of {LONGEST_LINE} characters or more")
                yield line


def read_json(path: Path, shape: type = dict, remedy: str = AGAIN) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        shape: Required type of the content.
        remedy: What to do if it is damaged.

    Raises:
        DataError: The file is not JSON, or its content has another type.
    """
    return parse_json(path, read_text(path, remedy), shape, remedy)


def parse_json(
    where: str | Path, text: str, shape: type = dict, remedy: str = AGAIN
) -> Any:
    """Parse JSON as in read_json(); `where` names the file or line in messages."""
    with refusing(where, "no JSON", remedy):
        content = json.loads(text)
    if not isinstance(content, shape):
        raise DataError(f"{where}: no JSON of the expected form; {remedy}")
    return content


def read_yaml(path: Path, remedy: str = AGAIN) -> Any:
    """Read plain YAML, refusing tags that construct Python objects.

    Raises:
        ConfigError: The file is not YAML.
    """
    with refusing(path, "no YAML", remedy, ConfigError):
        return yaml.safe_load(path.read_text(encoding="utf-8"))


def read_arrays(path: Path, *names: str, what: str = "not what it was") -> list[Any]:
    """Read arrays of a .npz file.

    Args:
        path: The file.
        names: Names of the arrays.
        what: Description of a damaged file, for the message.

    Raises:
        DataError: The file is damaged or lacks an array.
    """
    import numpy as np

    with refusing(path, what), np.load(path) as stored:
        return [stored[name] for name in names]
