"""Kaldi data directories: wav.scp, segments, utt2spk, spk2utt and text."""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet2_birq.datadir.files import whole_folder
from espnet2_birq.datadir.stream import refuse_byte_order_mark
from espnet2_birq.errors import DataError

MOST_DIGITS = 18  # limit for numbers of samples or bytes; no machine has more
# Whitespace, such as non-breaking spaces, that utils/validate_text.pl refuses in text.
OTHER_SPACE = re.compile(r"[^\S \t\n\x1c-\x1f]")
# LibriSpeech's <reader>-<chapter>, used as a speaker in data directories (19-198), or
# an utterance id (19-198-0000).
_CHAPTER = re.compile(r"(\d+)-\d+(?:-\d+)?")


@dataclass(frozen=True)
class Segment:
    """Position of an utterance in a recording.

    Attributes:
        recording: Unique name of the recording, without whitespace.
        start: Start in seconds.
        end: End in seconds.
    """

    recording: str
    start: float
    end: float


@dataclass(frozen=True)
class Utterance:
    """Utterance of a data directory.

    Attributes:
        utt_id: Unique id without whitespace. It should begin with the speaker's name,
            so that sorting by utterance also sorts by speaker, as Kaldi requires.
        speaker: Speaker name without whitespace.
        path: Audio file, as written to wav.scp.
        text: Transcript in one line; None if there is none.
        segment: Part of the audio file; None for the whole file.
    """

    utt_id: str
    speaker: str
    path: str
    text: str | None = None
    segment: Segment | None = None


def write_data_dir(
    dest: str | Path,
    utterances: Iterable[Utterance],
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write a data directory, complete or not at all.

    Files are in UTF-8, sorted in byte order (C locale). `text` is written only if all
    utterances have a transcript, `segments` only if all are segments, with times rounded
    to 10 ms. An existing data directory is replaced.

    Args:
        dest: Directory to write.
        utterances: Utterances in any order.
        extra_files: Mapping from name to content of additional files.

    Raises:
        DataError: An utterance cannot be represented, there are no utterances, only
            some are segments, or `dest` exists and is not a data directory.
    """
    dest = Path(os.path.realpath(dest))
    ordered = sorted(utterances, key=lambda utterance: utterance.utt_id)
    check_utterances(dest, ordered)
    files = {
        "wav.scp": format_scp(sorted(_audio_files(dest, ordered).items())),
        "utt2spk": format_scp((u.utt_id, u.speaker) for u in ordered),
        "spk2utt": format_scp(_utterances_of_speakers(ordered)),
    }
    if segments := [(u.utt_id, u.segment) for u in ordered if u.segment]:
        files["segments"] = format_scp(
            (utt_id, f"{part.recording} {part.start:.2f} {part.end:.2f}")
            for utt_id, part in segments
        )
    texts = [(u.utt_id, u.text) for u in ordered if u.text is not None]
    if len(texts) == len(ordered):
        files["text"] = format_scp(texts)
    files.update(extra_files or {})
    replace_data_dir(dest, files)


def replace_data_dir(dest: str | Path, files: Mapping[str, str]) -> None:
    """Write the files of a data directory, all or none, replacing an existing one.

    Args:
        dest: Directory to write.
        files: Mapping from name to content.

    Raises:
        DataError: `dest` exists and is not a data directory.
    """
    # If dest is a symbolic link, replace its target, not the link.
    dest = Path(os.path.realpath(dest))
    if dest.exists() and not _is_replaceable(dest):
        raise DataError(
            f"{dest}: exists and is not a Kaldi data directory; "
            "move it away or choose another one to write"
        )
    with whole_folder(dest) as part:
        for name, content in files.items():
            (part / name).write_text(content, encoding="utf-8", newline="\n")


def read_scp(path: str | Path, allow_empty_values: bool = False) -> dict[str, str]:
    """Read a file of `key value` lines: wav.scp, utt2spk, text, segments, ...

    Args:
        path: File to read.
        allow_empty_values: Whether to accept keys without value, as "" (allowed in
            text).

    Returns:
        Mapping from key to value, in the order of the file.

    Raises:
        DataError: As in iter_scp().
    """
    return dict(iter_scp(path, allow_empty_values))


def read_segment(where: str | Path, utt_id: str, value: str) -> Segment:
    """Parse the value of a line of segments; an end of -1 means the recording's end.

    Raises:
        DataError: The value is not `recording start end` with finite times.
    """
    try:
        recording, start, end = value.split()
        segment = Segment(recording, float(start), float(end))
    except ValueError:
        segment = None
    if segment is None or not math.isfinite(segment.start + segment.end):
        raise DataError(
            f"{where}: {utt_id} is not `utterance recording start end`, with times in "
            "seconds; correct the line"
        )
    return segment


def parse_samples(value: str) -> int | None:
    """Parse a number of samples; return None if it is not a number."""
    return int(value) if value.isdecimal() and len(value) <= MOST_DIGITS else None


def voice_of(speaker: str) -> str:
    """Return the reader of a LibriSpeech speaker or utterance; keep other names.

    Kaldi's and ESPnet's data directories of LibriSpeech have a speaker per chapter, so
    training and test speakers could otherwise be the same voice in different chapters.
    """
    match = _CHAPTER.fullmatch(speaker)
    return match[1] if match else speaker


def format_scp(pairs: Iterable[tuple[str, str]]) -> str:
    """Format pairs as `key value` lines; values may be empty."""
    return "".join(f"{key} {value}".rstrip() + "\n" for key, value in pairs)


def iter_scp(
    path: str | Path, allow_empty_values: bool = False
) -> Iterator[tuple[str, str]]:
    """Read a file of `key value` lines one by one, in constant memory.

    Args:
        path: File to read.
        allow_empty_values: Whether to accept keys without value, as "" (allowed in
            text).

    Yields:
        Key and value, in the order of the file.

    Raises:
        DataError: The file is missing or empty, or begins with a byte order mark; or a
            line is blank, is not UTF-8, has a Windows line end, lacks a value, repeats
            a key, or is out of order.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the data preparation first")
    previous = ""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            where = f"{path}: line {number}"
            if number == 1:
                refuse_byte_order_mark(path, raw)
            try:
                line = raw.decode("utf-8").removesuffix("\n")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{where} is not UTF-8; convert the file with iconv -t UTF-8"
                ) from error
            if line.endswith("\r"):
                raise DataError(
                    f"{where} has a Windows line end; convert it with dos2unix"
                )
            fields = line.split(maxsplit=1)
            if not fields:
                raise DataError(f"{where} is blank; remove it")
            key, value = fields[0], fields[1].rstrip() if len(fields) == 2 else ""
            if not value and not allow_empty_values:
                raise DataError(
                    f"{where}: {key} has no value; complete or remove the line"
                )
            # In a sorted file, equal keys are adjacent.
            if key == previous:
                raise DataError(
                    f"{where} repeats {key} of line {number - 1}; remove one of them"
                )
            # Code point order equals UTF-8 byte order, which is the order of LC_ALL=C.
            if key < previous:
                raise DataError(
                    f"{where}: {key} comes after {previous}; "
                    f"sort it with LC_ALL=C sort -o {path} {path}"
                )
            yield key, value
            previous = key
    if not previous:
        raise DataError(f"{path}: empty file; run the data preparation again")


def check_utterances(dest: Path, utterances: Iterable[Utterance]) -> None:
    """Check that utterances can be written as the data directory `dest`.

    Raises:
        DataError: There is none, one occurs twice, or one cannot be represented.
    """
    ordered = sorted(utterances, key=lambda utterance: utterance.utt_id)
    if not ordered:
        raise DataError(f"{dest}: no utterance to write; check the corpus folder")
    previous = None
    for utterance in ordered:
        if previous is not None and utterance.utt_id == previous.utt_id:
            raise DataError(
                f"{dest}: utterance {utterance.utt_id} occurs twice, as "
                f"{previous.path} and {utterance.path}; leave one of them out"
            )
        previous = utterance
        names = [("utterance id", utterance.utt_id), ("speaker", utterance.speaker)]
        if utterance.segment:
            names.append(("recording", utterance.segment.recording))
        for what, name in names:
            if not name or _has_space(name):
                raise DataError(
                    f"{utterance.path}: {what} {name!r} is empty or has whitespace in "
                    "it; rename it"
                )
        if _has_space(utterance.path):
            raise DataError(
                f"{utterance.path}: there is a space in the path, at which ESPnet's "
                "shell scripts would split it; give the corpus by a symbolic link "
                "without spaces"
            )
        if utterance.text is not None and len(utterance.text.splitlines()) > 1:
            raise DataError(
                f"{utterance.path}: its transcript has several lines; join them"
            )


def _audio_files(dest: Path, utterances: Iterable[Utterance]) -> dict[str, str]:
    files: dict[str, str] = {}
    segmented = {u.segment is not None for u in utterances}
    if len(segmented) > 1:
        raise DataError(f"{dest}: only some utterances are segments of a recording")
    for u in utterances:
        name = u.segment.recording if u.segment else u.utt_id
        if files.setdefault(name, u.path) != u.path:
            raise DataError(
                f"{dest}: recording {name} is both {files[name]} and {u.path}; "
                "leave one of them out"
            )
    return files


def _has_space(name: str) -> bool:
    return any(character.isspace() for character in name)


def _is_replaceable(dest: Path) -> bool:
    return dest.is_dir() and ((dest / "wav.scp").exists() or not any(dest.iterdir()))


def _utterances_of_speakers(ordered: list[Utterance]) -> list[tuple[str, str]]:
    utterances_of = defaultdict(list)
    for utterance in ordered:
        utterances_of[utterance.speaker].append(utterance.utt_id)
    return [
        (speaker, " ".join(utterances_of[speaker])) for speaker in sorted(utterances_of)
    ]
