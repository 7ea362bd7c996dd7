"""Atomic writing of files: complete or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success, rename it to `path`."""
    part = path.with_name(path.name + ".part")
    yield part
    part.replace(path)


def write_whole(path: Path, content: str) -> None:
    """Write a text file, complete or not at all."""
    with whole_file(path) as part:
        part.write_text(content, encoding="utf-8", newline="\n")
