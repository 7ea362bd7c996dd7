"""Stamps: records of what a folder or file was made from, to detect changes.

Each stage of a recipe reads the output of the stage before. If the data changes and only
a later stage is run again, it would silently use old files. So each stage records the
size and hash of its input lists, and its options, next to its output. Later stages check
this record first.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_json

STAMP = "made_from.json"
CHUNK = 1 << 20  # bytes read at once
# Lines of a training's config.yaml that differ from start to start, and what follows from
# another number of GPUs or of processes, without effect on the model's outputs.
CONFIG = "config.yaml"
VOLATILE = re.compile(
    rb"^(dist_\w+|distributed|multiprocessing_distributed|ngpu|num_workers|log_interval"
    rb"|log_level|resume|save_minutes|save_updates): .*\n",
    re.MULTILINE,
)

Files = Mapping[str, dict | None]


def write_stamp(
    made: Path,
    files: Iterable[str | Path],
    options: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Record what a folder or file was made from.

    Args:
        made: Output folder or file.
        files: Input files; missing ones are recorded as absent.
        options: Settings that affected the output.
        settings: Further settings, which stamps of older versions do not have.
    """
    stamp = stamp_path(made)
    content = {"options": dict(options or {}), "files": _describe_all(files)}
    if settings is not None:
        content["settings"] = dict(settings)
    write_whole(stamp, json.dumps(content, indent=1) + "\n")


def check_stamp(
    made: Path,
    files: Iterable[str | Path],
    options: Mapping[str, str] | None = None,
    required: bool = False,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Check that a folder or file is up to date with its inputs.

    Inputs that no longer exist are ignored: they may be deleted to save space.

    Args:
        made: Output folder or file.
        files: Current input files.
        options: Current settings.
        required: Whether a missing stamp is an error. Otherwise `made` may come from
            elsewhere, and nothing is checked.
        settings: All current further settings. Those of the stamp may not be more. A
            stamp without any is of an older version, and they are not checked.

    Raises:
        DataError: Something has changed; the message says what.
    """
    stamp = stamp_path(made)
    if not stamp.is_file():
        if required:
            raise DataError(f"{made}: there is no record of what it was made from")
        return
    noted = _read(stamp)
    for name, value in (options or {}).items():
        before = noted["options"].get(name)
        # It may be a folder, spelled in another way.
        if before is None or os.path.realpath(before) != os.path.realpath(value):
            raise DataError(
                f"{made} was made with {name} {before!r}, now it is {value!r}"
            )
    if settings is not None and noted.get("settings") is not None:
        _compare(made, noted["settings"], settings)
    names = [os.fspath(file) for file in files]
    now_from, made_from = (
        set(map(os.path.realpath, x)) for x in (names, noted["files"])
    )
    for name in names:
        if os.path.realpath(name) not in made_from:
            raise DataError(f"{made} was not made from {name}, but would be now")
    for name, before in noted["files"].items():
        if os.path.realpath(name) not in now_from:
            raise DataError(f"{made} was made from {name}, but would not be now")
        now = describe(Path(name))
        if now is not None and now != before:
            raise DataError(
                f"{name} has changed since {made} was made: {_tell(before, now)}"
            )


def sources(made: Path) -> list[str]:
    """Return the input files of a folder or file; none without a stamp."""
    stamp = stamp_path(made)
    if not stamp.is_file():
        return []
    return list(_read(stamp)["files"])


def stamp_path(made: Path) -> Path:
    """Return the path of the stamp: inside a folder, next to a file."""
    return made / STAMP if made.is_dir() else made.with_name(f"{made.name}.{STAMP}")


def _compare(made: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) == now.get(name):
            continue
        told = [
            f"{name} {x[name]}" if name in x else f"no {name}" for x in (before, now)
        ]
        raise DataError(f"{made} was made with {told[0]}, now there is {told[1]}")


def _read(stamp: Path) -> dict[str, dict]:
    """Read a stamp.

    Raises:
        DataError: The stamp is damaged.
    """
    remedy = "remove it and make again what it is the record of"
    noted = read_json(stamp, dict, remedy)
    options, files = noted.get("options"), noted.get("files")
    if not (
        isinstance(options, dict)
        and isinstance(files, dict)
        and all(x is None or isinstance(x, dict) for x in files.values())
        and isinstance(noted.get("settings", {}), dict)
    ):
        raise DataError(f"{stamp}: has no options and files; {remedy}")
    return noted


def _describe_all(files: Iterable[str | Path]) -> Files:
    return {os.fspath(file): describe(Path(file)) for file in files}


def describe(file: Path) -> dict | None:
    """Count the bytes and lines of a file, and hash it; None if it does not exist.

    Of a training's configuration, lines without effect on the model are left out.
    """
    if not file.is_file():
        return None
    if file.name == CONFIG:
        kept = VOLATILE.sub(b"", file.read_bytes())
        hashed = hashlib.sha256(kept).hexdigest()
        return {"bytes": len(kept), "lines": kept.count(b"\n"), "sha256": hashed}
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
        if before.get(unit) != now[unit]:
            return f"{before.get(unit)} {unit} then, {now[unit]} now"
    return "same length, other content"
