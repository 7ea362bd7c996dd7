"""Files that are there as a whole or not at all."""

from pathlib import Path


def write_whole(path: Path, content: str) -> None:
    """Write a text file beside its place, then move it there."""
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8", newline="\n")
    part.replace(path)
