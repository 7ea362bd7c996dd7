"""Atomic writing of files and folders: complete or not at all."""

import os
import shutil
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


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder, which then replaces `path`.

    A symbolic link stays, and its target is replaced. If anything fails, only the old
    folder remains. A killed process leaves .NAME.part or .NAME.old at worst, which the
    next call removes.
    """
    path = Path(os.path.realpath(path))
    part, old = (path.with_name(f".{path.name}.{end}") for end in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            if old.exists():
                shutil.rmtree(old)
            path.rename(old)
        try:
            part.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if old.exists():
        shutil.rmtree(old)


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
