"""Text, JSON, YAML and arrays from outside: read, or refused in one line.

Which error a library raises for a damaged file is an accident of where the damage is, so
all are taken here, around the library's call alone.
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
LONGEST_LINE = 1 << 26  # characters; a line beyond is an archive bomb, or no text
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
    """Report what a library raises in this context as damage of a file.

    Args:
        path: The file.
        what: What it is not, e.g. "no JSON".
        remedy: What to do about it.
        kind: Error to raise.

    Raises:
        ConfigError, DataError: The file is damaged; as `kind` says.
    """
    try:
        yield
    except (ConfigError, DataError):
        raise
    except (OSError, *DAMAGE) as error:
        # Of the system's errors, these are of what a damaged file says.
        known = (None, errno.EINVAL, errno.ENAMETOOLONG)
        if isinstance(error, OSError) and error.errno not in known:
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise kind(f"{path}: {what} ({why}); {remedy}") from error


def read_text(path: Path, remedy: str = AGAIN) -> str:
    """Read a text in UTF-8, with or without a byte order mark.

    Raises:
        DataError: It is not UTF-8.
    """
    with refusing(path, "not UTF-8", remedy):
        return path.read_text(encoding="utf-8-sig")


def read_lines(path: Path, remedy: str = AGAIN) -> Iterator[str]:
    """Yield the lines of a text in UTF-8, unpacked if its name ends with .gz.

    Raises:
        DataError: It is not UTF-8, is damaged, or has a line beyond all measure.
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
        shape: Type of its content.
        remedy: What to do if it is damaged.

    Raises:
        DataError: It is no JSON, or of another type.
    """
    return parse_json(path, read_text(path, remedy), shape, remedy)


def parse_json(
    where: str | Path, text: str, shape: type = dict, remedy: str = AGAIN
) -> Any:
    """Parse JSON; `where` is its file, and line, for the message. See read_json()."""
    with refusing(where, "no JSON", remedy):
        content = json.loads(text)
    if not isinstance(content, shape):
        raise DataError(f"{where}: no JSON of the expected form; {remedy}")
    return content


def read_yaml(path: Path, remedy: str = AGAIN) -> Any:
    """Read plain YAML: no object of it is made.

    Raises:
        ConfigError: It is no YAML.
    """
    with refusing(path, "no YAML", remedy, ConfigError):
        return yaml.safe_load(path.read_text(encoding="utf-8"))


def read_arrays(path: Path, *names: str, what: str = "not what it was") -> list[Any]:
    """Read arrays of a .npz file.

    Args:
        path: The file.
        names: Names of the arrays.
        what: What the file is not, if it is damaged.

    Raises:
        DataError: It is damaged, or lacks one.
    """
    import numpy as np

    with refusing(path, what), np.load(path) as stored:
        return [stored[name] for name in names]
