"""Files that are there as a whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside a file's place; what is written to it is moved there."""
    part = path.with_name(path.name + ".part")
    yield part
    part.replace(path)


def write_whole(path: Path, content: str) -> None:
    """Write a text file beside its place, then move it there."""
    with whole_file(path) as part:
        part.write_text(content, encoding="utf-8", newline="\n")
