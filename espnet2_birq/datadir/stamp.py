"""Stamps: what something on disk was made from, to see when that has changed.

Each stage of a recipe reads what the stage before has written. When the data changes and
only a later stage is run again, the old files are still there and nothing looks wrong. So
a stage notes size and hash of the lists it has read, and the options that shaped its
work, beside what it has made; whoever reads that compares first.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.errors import DataError

STAMP = "made_from.json"
CHUNK = 1 << 20  # bytes read at once

Files = Mapping[str, dict | None]


def write_stamp(
    made: Path, files: Iterable[str | Path], options: Mapping[str, str] | None = None
) -> None:
    """Note what a folder or file was made from.

    Args:
        made: The folder or file.
        files: What it was made from; one that does not exist is noted as absent.
        options: Further settings that shaped it.
    """
    stamp = stamp_path(made)
    content = {"options": dict(options or {}), "files": _describe_all(files)}
    write_whole(stamp, json.dumps(content, indent=1) + "\n")


def check_stamp(
    made: Path,
    files: Iterable[str | Path],
    options: Mapping[str, str] | None = None,
    required: bool = False,
) -> None:
    """Compare what a folder or file was made from with what is there now.

    Sources that are gone are passed over: they may be deleted to save space.

    Args:
        made: The folder or file.
        files: What it would be made from now.
        options: Settings that would shape it now.
        required: Whether a missing stamp is an error. If not, `made` may come from
            elsewhere, and there is nothing to compare.

    Raises:
        DataError: Something has changed; says what.
    """
    stamp = stamp_path(made)
    if not stamp.is_file():
        if required:
            raise DataError(f"{made}: there is no note of what it was made from")
        return
    noted = json.loads(stamp.read_text(encoding="utf-8"))
    for name, value in (options or {}).items():
        before = noted["options"].get(name)
        if before != value:
            raise DataError(
                f"{made} was made with {name} {before!r}, now it is {value!r}"
            )
    names = [os.fspath(file) for file in files]
    for name in names:
        if name not in noted["files"]:
            raise DataError(f"{made} was not made from {name}, as it would be now")
    for name, before in noted["files"].items():
        if name not in names:
            raise DataError(f"{made} was made from {name}, as it would not be now")
        now = describe(Path(name))
        if now is not None and now != before:
            raise DataError(
                f"{name} has changed since {made} was made: {_tell(before, now)}"
            )


def sources(made: Path) -> list[str]:
    """Return the files that a folder or file was made from; none without a stamp."""
    stamp = stamp_path(made)
    if not stamp.is_file():
        return []
    return list(json.loads(stamp.read_text(encoding="utf-8"))["files"])


def stamp_path(made: Path) -> Path:
    """Return where the stamp of a folder (inside) or file (beside) is."""
    return made / STAMP if made.is_dir() else made.with_name(f"{made.name}.{STAMP}")


def _describe_all(files: Iterable[str | Path]) -> Files:
    return {os.fspath(file): describe(Path(file)) for file in files}


def describe(file: Path) -> dict | None:
    """Count bytes and lines of a file, and hash it; None if there is no such file."""
    if not file.is_file():
        return None
    digest, lines, size = hashlib.sha256(), 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            size += len(chunk)
    return {"bytes": size, "lines": lines, "sha256": digest.hexdigest()}


def _tell(before: dict | None, now: dict) -> str:
    if before is None:
        return "it did not exist then"
    for unit in ("lines", "bytes"):
        if before[unit] != now[unit]:
            return f"{before[unit]} {unit} then, {now[unit]} now"
    return "as long as then, with other content"
