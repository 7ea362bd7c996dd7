"""Lists of recordings: a Kaldi data directory, a manifest, a folder of audio, a file."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from espnet2_birq.datadir.audio import probe_apart
from espnet2_birq.datadir.kaldi import iter_scp, parse_samples
from espnet2_birq.datadir.paths import PathResolver
from espnet2_birq.errors import DataError
from espnet2_birq.reading import parse_json, read_lines

# Suffixes of audio that libsndfile reads
SUFFIXES = {".flac", ".wav", ".mp3", ".ogg", ".opus", ".sph", ".aif", ".aiff"}
FORMATS = (
    "a Kaldi data directory, wav.scp, JSON lines with audio_filepath, fairseq's TSV, a "
    "folder of audio, or an audio file"
)


# Seconds by which a manifest's duration may be shorter than the file (rounding)
TOLERANCE = 0.1


class Listed(NamedTuple):
    """Entry of a list."""

    name: str
    entry: str  # as in Recording
    seconds: float | None = None  # duration, if the list gives it


class Recording(NamedTuple):
    """An utterance or a recording of any length."""

    name: str  # without whitespace
    entry: str  # audio file, or file.ark:offset
    samples: int


def find_recordings(
    source: Path, rate: int, nj: int = 4
) -> tuple[list[Recording], dict[str, str]]:
    """List recordings and read the header of each.

    Args:
        source: One of FORMATS.
        rate: Sample rate of the model in Hz.
        nj: Number of threads that read headers.

    Returns:
        Recordings sorted by length, and a mapping from unusable ones to the reason.

    Raises:
        DataError: The list is unknown or broken, two recordings have the same name, a
            name is not in UTF-8, a file is longer than its duration in the list, or no
            recording can be used.
    """
    entries: dict[str, str] = {}
    stated: dict[str, float] = {}
    for name, entry, seconds in _list(source, rate):
        name = "_".join(name.split())
        if not (_is_unicode(name) and _is_unicode(entry)):
            raise DataError(f"{source}: {entry!a} is no name in UTF-8; rename it")
        # The output has this name, in the output folder.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(
                f"{source}: {name} would lead out of the output folder; rename it"
            )
        if name in entries:
            raise DataError(
                f"{source}: {entries[name]} and {entry} would both be called '{name}'; "
                "rename one, or give a wav.scp"
            )
        entries[name] = entry
        if seconds is not None:
            stated[name] = seconds
    if not entries:
        raise DataError(f"{source}: no audio in it; give {FORMATS}")
    good, bad = probe_apart(entries.values(), rate, nj)
    for name, seconds in stated.items():
        there = good[entries[name]].seconds if entries[name] in good else 0.0
        if seconds < there - TOLERANCE:
            raise DataError(
                f"{source}: {name} has a duration of {seconds:g} s and {entries[name]} "
                f"has {there:.2f} s: audio must be cut into utterances; give the cut files"
            )
    found = [
        Recording(name, entry, good[entry].frames)
        for name, entry in entries.items()
        if entry in good
    ]
    skipped = {name: bad[entry] for name, entry in entries.items() if entry in bad}
    if not found:
        name, why = next(iter(skipped.items()))
        raise DataError(f"{source}: no recording can be used; the first, {name}: {why}")
    return sorted(found, key=lambda one: (one.samples, one.name)), skipped


def _list(source: Path, rate: int) -> Iterable[Listed]:
    """Return the entries of a source; numbers of samples are of this rate in Hz."""
    if (source / "wav.scp").is_file():
        return _scp(source / "wav.scp")
    if source.is_dir():
        files = (x for x in _walk(source) if x.suffix.lower() in SUFFIXES)
        return [
            Listed(str(path.relative_to(source).with_suffix("")), str(path))
            for path in sorted(files)
        ]
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder; give {FORMATS}")
    if source.suffix.lower() in SUFFIXES:
        return [Listed(source.stem, str(source))]
    if source.suffix in (".json", ".jsonl"):
        return _json_lines(source)
    if source.suffix == ".tsv":
        return _tsv(source, rate)
    return _scp(source)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written to a list: file names may be in other encodings."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, also in linked ones."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder around it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry), above | {real})
            else:
                yield Path(entry)


def _scp(path: Path) -> Iterator[Listed]:
    segments = path.parent / "segments"
    if path.name == "wav.scp" and segments.exists():
        raise DataError(
            f"{segments}: audio must be cut into utterances; give what stage 3 of the "
            f"recipe has written, as dump/raw/{path.parent.name}"
        )
    resolve = PathResolver(path.parent)
    for name, entry in iter_scp(path):
        if entry.endswith("|"):
            raise DataError(
                f"{path}: {name} is a command; give what stage 3 of the recipe has "
                f"written, as dump/raw/{path.parent.name}"
            )
        yield Listed(name, resolve(entry))


def _json_lines(path: Path) -> Iterator[Listed]:
    """Read a NeMo manifest; names are those of the audio files, without suffix."""
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}: line {number}"
        row = parse_json(where, line, remedy="correct it")
        name = row.get("audio_filepath")
        if row.get("offset"):
            raise DataError(
                f"{where}: has an offset: audio must be cut into utterances; give the "
                "cut files"
            )
        if not isinstance(name, str) or not Path(name).name:
            raise DataError(f"{where}: no JSON with audio_filepath; correct it")
        seconds = row.get("duration")
        if seconds is not None and not isinstance(seconds, int | float):
            raise DataError(f"{where}: duration {seconds!r} is no number; correct it")
        file = Path(name)
        yield Listed(file.stem, str(path.parent / file), seconds)


def _tsv(path: Path, rate: int) -> Iterator[Listed]:
    """Read a fairseq manifest: the root in the first line, then file and samples."""
    root, *lines = [line.rstrip("\r\n") for line in read_lines(path)] or [""]
    if "\t" in root or not lines:
        raise DataError(
            f"{path}: the first line is to be the root folder of the others"
        )
    for number, line in enumerate(lines, 2):
        file, _, length = line.partition("\t")
        samples = parse_samples(length) if length else None
        if length and samples is None:
            raise DataError(
                f"{path}: line {number}: {length!r} is no number of samples; correct it"
            )
        if not Path(file).name:
            raise DataError(f"{path}: line {number}: names no file; remove it")
        # The output has the file's name, in the output folder.
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise DataError(
                f"{path}: line {number}: {file} is not below the root folder of the "
                "first line; correct the root"
            )
        name = str(Path(file).with_suffix(""))
        seconds = None if samples is None else samples / rate
        yield Listed(name, str(path.parent / root / file), seconds)
