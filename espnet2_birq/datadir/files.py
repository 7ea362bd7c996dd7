"""Atomic writing of files: complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file written there then replaces `path`.

    The content reaches the disk before the name does, so a power cut leaves either the
    old file or the new one. If writing fails, only the old file remains.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        sync(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_whole(path: Path, content: str) -> None:
    """Write a text file, complete or not at all."""
    with whole_file(path) as part:
        part.write_text(content, encoding="utf-8", newline="\n")


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)
