"""Import of another recipe's data directory, without writing to it."""

import os
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from espnet2_birq.datadir.audio import ARK_ENTRY, ark_command
from espnet2_birq.datadir.files import whole_folder
from espnet2_birq.datadir.kaldi import OTHER_SPACE, iter_scp, parse_samples
from espnet2_birq.datadir.paths import PathResolver
from espnet2_birq.datadir.stream import merge
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_text

SOURCE = "source"  # file with the path of the imported directory
UNCONVERTED = "None"  # ESPnet's stage 3 writes it for audio that it could not convert


@dataclass
class Adopted:
    """Result of an import.

    Attributes:
        utterances: Number of utterances in the new directory.
        left_out: Number of utterances that were too short or too long; None if lengths
            are not looked at.
        unconverted: Number of utterances whose audio ESPnet could not convert.
    """

    utterances: int = 0
    left_out: int | None = None
    unconverted: int = 0


def is_formatted(source: str | Path) -> bool:
    """Return whether a folder is a set formatted by ESPnet, not a Kaldi directory."""
    return (Path(source) / "feats_type").exists()


def read_feats_type(source: Path) -> str:
    """Read the feats_type of a set formatted by ESPnet; it is raw for audio."""
    try:
        return " ".join(read_text(source / "feats_type").split())[:40]
    except DataError:
        return "unreadable"


def adopt(
    source: str | Path,
    dest: str | Path,
    fs: int,
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    transcripts: bool = False,
) -> Adopted:
    """Make a data directory with new lists for the audio of another one.

    Paths become absolute; the audio is not copied. Each utterance becomes its own
    speaker, since pretraining does not use speakers, so they need not be known or
    sorted. Transcripts are not copied. Lists are processed line by line.

    A set formatted by ESPnet (it has the file feats_type) is filtered by length, as in
    ESPnet's stage 4. A Kaldi data directory is not filtered here, since it has to be
    formatted later; for this, audio in arks becomes commands, which ESPnet can read.

    With `transcripts`, for fine-tuning and scoring, `text` and any `utt2spk` are copied
    as well, and a formatted set becomes a Kaldi data directory.

    Args:
        source: Kaldi data directory, or ESPnet's dump/raw/<name>.
        dest: Directory to write, complete or not at all. It is replaced if it was made
            from the same source, and left unchanged if it is the source itself, which
            then must not have utterances outside the limits.
        fs: Sample rate of a formatted set in Hz.
        min_seconds: Utterances of a formatted set must be longer than this, in seconds.
        max_seconds: Utterances of a formatted set must be shorter than this, in seconds.
        transcripts: Whether to copy transcripts and speakers.

    Returns:
        Numbers of utterances.

    Raises:
        DataError: The source cannot be used, or `dest` was not made from it.
    """
    source, dest = Path(source), Path(os.path.realpath(dest))
    if not (source / "wav.scp").is_file():
        raise DataError(f"{source}: no wav.scp in it; give a Kaldi data directory")
    limits = (min_seconds * fs, max_seconds * fs)
    if dest.exists() and dest.samefile(source):
        if is_formatted(source) and not transcripts:
            _refuse_outside(source, limits, fs)
        return Adopted(sum(1 for _ in iter_scp(source / _utterances(source))))
    _check_dest(dest, source)
    with whole_folder(dest) as part:
        if transcripts:
            adopted = _adopt_kaldi(source, part)
            _refuse_open_segments(source)
            _copy_transcripts(source, part)
        elif is_formatted(source):
            adopted = _adopt_formatted(source, part, limits)
            if not adopted.utterances:
                raise DataError(
                    f"{source}: no utterance is left that is longer than {min_seconds:g} "
                    f"s and shorter than {max_seconds:g} s; give wider limits"
                )
        else:
            adopted = _adopt_kaldi(source, part)
        (part / SOURCE).write_text(f"{os.path.realpath(source)}\n", encoding="utf-8")
    return adopted


def _check_dest(dest: Path, source: Path) -> None:
    if not dest.exists():
        return
    made_from = None
    if (dest / SOURCE).is_file():
        made_from = read_text(dest / SOURCE).rstrip("\n")
    if made_from != os.path.realpath(source):
        raise DataError(
            f"{dest}: already exists, made from {made_from or 'something else'}, not "
            f"{source}; move it away, or give the new set by a link of another name"
        )
    # It would be deleted with whatever is in it, and an import makes no folders.
    folders = sorted(path.name for path in dest.iterdir() if path.is_dir())
    if folders:
        raise DataError(
            f"{dest}: has a folder {folders[0]}, which an import did not make; move it away"
        )


def _adopt_kaldi(source: Path, part: Path) -> Adopted:
    resolver, adopted = PathResolver(source), Adopted()
    if (source / "segments").exists():
        shutil.copyfile(source / "segments", part / "segments")
    with (part / "wav.scp").open("w", encoding="utf-8") as scp:
        for key, entry in iter_scp(source / "wav.scp"):
            if entry == UNCONVERTED:
                adopted.unconverted += 1
                continue
            entry = resolver(entry)
            if ARK_ENTRY.match(entry):
                entry = ark_command(entry)
            scp.write(f"{key} {entry}\n")
    with _speaker_files(part) as speakers:
        for utt_id, _ in iter_scp(part / _utterances(source)):
            speakers.write(utt_id)
            adopted.utterances += 1
    return adopted


def _utterances(source: Path) -> str:
    """Return the name of the list that has a line for each utterance."""
    return "segments" if (source / "segments").exists() else "wav.scp"


def _refuse_open_segments(source: Path) -> None:
    """Refuse segments that end at -1: Kaldi's checks of a set for recognition would.

    Raises:
        DataError: There is one.
    """
    if (source / "segments").exists():
        for utt_id, entry in iter_scp(source / "segments"):
            if entry.split()[-1] == "-1":
                raise DataError(
                    f"{source}/segments: {utt_id} ends at -1, which Kaldi's scripts refuse "
                    "with transcripts: write its end in seconds"
                )


def _copy_transcripts(source: Path, part: Path) -> None:
    """Copy the lines of `text` and `utt2spk` for the new directory's utterances.

    Whitespace that Kaldi refuses, such as non-breaking spaces, becomes spaces.

    Raises:
        DataError: An utterance has no transcript or speaker, or speakers are not
            sorted.
    """
    names = ["text"] + ["utt2spk"] * (source / "utt2spk").exists()
    tables = {name: iter_scp(source / name, name == "text") for name in names}
    tables["utterances"] = iter_scp(part / "utt2spk")
    with ExitStack() as stack:
        copies = {
            name: stack.enter_context(
                (part / f"{name}.copy").open("w", encoding="utf-8")
            )
            for name in names
        }
        last = ""
        for utt_id, row in merge(tables):
            if "utterances" not in row:
                continue  # no audio for this utterance, which Kaldi allows
            for name, file in copies.items():
                if name not in row:
                    raise DataError(
                        f"{source}/{name}: no {utt_id}; add its line, or remove the "
                        "utterance (Kaldi's utils/fix_data_dir.sh)"
                    )
                value = OTHER_SPACE.sub(" ", row[name])
                file.write(f"{utt_id} {value}".rstrip() + "\n")
            speaker = row.get("utt2spk", utt_id)
            if speaker < last:
                raise DataError(
                    f"{source}/utt2spk: {utt_id}: speakers are not in order, as Kaldi "
                    "wants them: begin names of utterances with their speaker, or remove "
                    "utt2spk: each is its own speaker then"
                )
            last = speaker
    for name in names:
        (part / f"{name}.copy").replace(part / name)
    with (part / "spk2utt").open("w", encoding="utf-8") as file:
        for speaker, rows in groupby(iter_scp(part / "utt2spk"), key=itemgetter(1)):
            file.write(f"{speaker} {' '.join(utt_id for utt_id, _ in rows)}\n")


def _adopt_formatted(source: Path, part: Path, limits: tuple[float, float]) -> Adopted:
    feats_type = read_feats_type(source)
    if feats_type != "raw":
        raise DataError(
            f"{source}: feats_type is {feats_type}, pretraining needs audio; give a "
            "set made with --feats_type raw"
        )
    adopted, left_out = Adopted(), 0
    audio_format = None
    with (
        (part / "wav.scp").open("w", encoding="utf-8") as scp,
        (part / "utt2num_samples").open("w", encoding="utf-8") as lengths,
        _speaker_files(part) as speakers,
    ):
        for utt_id, entry, samples in _formatted(source):
            if not limits[0] < samples < limits[1]:
                left_out += 1
                continue
            audio_format = audio_format or _audio_format(source, entry)
            scp.write(f"{utt_id} {entry}\n")
            lengths.write(f"{utt_id} {samples}\n")
            speakers.write(utt_id)
            adopted.utterances += 1
    adopted.left_out = left_out
    (part / "feats_type").write_text("raw\n")
    (part / "audio_format").write_text(f"{audio_format}\n")
    return adopted


def _refuse_outside(source: Path, limits: tuple[float, float], fs: int) -> None:
    """Refuse a formatted set to be used in place if it would have to be filtered."""
    outside = [
        utt_id
        for utt_id, _, samples in _formatted(source)
        if not limits[0] < samples < limits[1]
    ]
    if outside:
        low, high = (f"{limit / fs:g}" for limit in limits)
        raise DataError(
            f"{source}: {len(outside)} utterances are not between {low} and {high} s, for "
            f"instance {outside[0]}, and a set is not filtered in its own place; give it "
            "by a link of another name, or give wider limits"
        )


def _formatted(source: Path) -> Iterator[tuple[str, str, int]]:
    """Yield utterance id, resolved entry of wav.scp, and length in samples."""
    tables = {name: iter_scp(source / name) for name in ("wav.scp", "utt2num_samples")}
    resolver = PathResolver(source)
    for utt_id, row in merge(tables):
        for name in tables:
            if name not in row:
                # Read both to the end: if one is not sorted, report that instead.
                for table in tables.values():
                    deque(table, maxlen=0)
                raise DataError(
                    f"{source}/{name}: no {utt_id}; run the recipe's stages 3 and 4 "
                    "again"
                )
        samples = parse_samples(row["utt2num_samples"])
        if samples is None:
            raise DataError(
                f"{source}/utt2num_samples: {utt_id} has no number; run the recipe's "
                "stages 3 and 4 again"
            )
        if row["wav.scp"].endswith("|"):
            raise DataError(
                f"{source}/wav.scp: {utt_id} is a command, in a formatted set; run the "
                "recipe's stages 3 and 4 again"
            )
        entry = row["wav.scp"] if samples == 0 else resolver(row["wav.scp"])
        yield utt_id, entry, samples


def _audio_format(source: Path, entry: str) -> str:
    name = "ark" if ARK_ENTRY.match(entry) else Path(entry).suffix.removeprefix(".")
    if (source / "audio_format").is_file():
        name = read_text(source / "audio_format").strip()
    if name.startswith("multi_"):
        raise DataError(
            f"{source}: audio_format {name} has several files an utterance, "
            "pretraining needs one; make the set without --multi_columns_output_wav_scp"
        )
    return name


class _speaker_files:
    """Writer of utt2spk and spk2utt in which each utterance is its own speaker."""

    def __init__(self, folder: Path):
        self._paths = [folder / name for name in ("utt2spk", "spk2utt")]

    def __enter__(self) -> "_speaker_files":
        self._files = [path.open("w", encoding="utf-8") for path in self._paths]
        return self

    def write(self, utt_id: str) -> None:
        for file in self._files:
            file.write(f"{utt_id} {utt_id}\n")

    def __exit__(self, *exception) -> None:
        for file in self._files:
            file.close()
