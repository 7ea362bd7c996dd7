"""Preparation of AMI's data directories, and lists of the files to download."""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from espnet2_birq.corpora.ami.annotation import find_annotation, read_meetings
from espnet2_birq.corpora.ami.corpus import (
    MICROPHONES,
    MeetingSet,
    Microphone,
    count_words,
    cut_sets,
    demand_meetings,
    drop_lost,
    find_audio,
    list_recordings,
    match_audio,
)
from espnet2_birq.corpora.ami.output import write_set
from espnet2_birq.corpora.ami.partitions import FULL_CORPUS_ASR, SETS, read_partition
from espnet2_birq.corpora.ami.statistics import measure
from espnet2_birq.datadir.summary import summary_lines
from espnet2_birq.errors import DataError

URL = "http://groups.inf.ed.ac.uk/ami/AMICorpusMirror"


def list_downloads(
    annotations: str | Path,
    mic: str = "ihm",
    sets: Collection[str] = SETS,
    partition: str = FULL_CORPUS_ASR,
) -> list[str]:
    """List the recordings to download for some sets and a microphone.

    Args:
        annotations: Folder of the annotation, as in find_annotation().
        mic: Name in MICROPHONES.
        sets: Names of sets, from SETS.
        partition: As in read_partition().

    Returns:
        Lines `- URL PATH`, as local/download.sh reads them.

    Raises:
        DataError: The annotation or the request is wrong.
    """
    root = find_annotation(annotations)
    participants = read_meetings(root)
    partitioned = read_partition(partition)
    meetings = [m for name in SETS if name in sets for m in partitioned[name]]
    demand_meetings(root, participants, meetings)
    return [
        f"- {URL}/{path} {path}"
        for meeting in meetings
        for path in list_recordings(MICROPHONES[mic], meeting, participants[meeting])
    ]


def prepare_ami(
    annotations: str | Path,
    audio: str | Path,
    dest: Path,
    mic: str = "ihm",
    sets: Collection[str] = SETS,
    partition: str = FULL_CORPUS_ASR,
    *,
    annotations_only: bool = False,
    fs: int | None = 16000,
    skip_bad: bool = False,
    nj: int = 4,
    dry_run: bool = False,
) -> None:
    """Write the data directories DEST/<microphone>_<set>, and print their contents.

    Args:
        annotations: Folder of the annotation, as in find_annotation().
        audio: Folder of the recordings, as in find_audio().
        dest: Parent folder of the data directories.
        mic: Name in MICROPHONES.
        sets: Names of sets, from SETS.
        partition: As in read_partition().
        annotations_only: Whether to skip all checks of audio; wav.scp then has the
            expected paths.
        fs: Required sample rate in Hz; None accepts any.
        skip_bad: Whether to skip what is not in bad, missing or short recordings
            instead of raising an error, as in match_audio().
        nj: Number of threads that open audio.
        dry_run: Whether to check and report only, without writing.

    Raises:
        DataError: The annotation, the audio or the request is wrong; nothing has been
            written. Or a set cannot be written.
    """
    begun = time.monotonic()
    microphone = MICROPHONES[mic]
    root = find_annotation(annotations)
    meetings = read_partition(partition)
    # Each set once, in the order of SETS.
    made = cut_sets(root, meetings, [name for name in SETS if name in sets])
    drop_lost(made, microphone)
    if annotations_only:
        folder = Path(audio).absolute()
    else:
        folder = find_audio(audio)
        match_audio(made, microphone, folder, fs, nj, skip_bad)
        _demand_utterances(made, microphone, folder)
    for one in made.values():
        own = dest / f"{microphone.name}_{one.name}"
        if not dry_run:
            write_set(own, one, microphone, folder)
        print("\n".join(_summary(own, one, microphone)))
    print(_others(root, meetings))
    _tell_speed(made, time.monotonic() - begun)
    if dry_run:
        print("dry run: nothing was written")


def _demand_utterances(
    sets: Mapping[str, MeetingSet], microphone: Microphone, audio: Path
) -> None:
    for one in sets.values():
        if not one.turns:
            example = microphone.path(audio, one.meetings[0], 0)
            raise DataError(
                f"{audio}: no recording with an utterance of {one.name}, for instance "
                f"{example}; correct --audio (--ami of the recipe) and --mic, or give "
                "other meetings (--partition), or prepare_ami fewer --sets"
            )


def _summary(dest: Path, one: MeetingSet, microphone: Microphone) -> list[str]:
    talks = measure(one.turns)
    total = talks.pop("total")
    skipped = {
        reason: [turn.utt_id(microphone) for turn in turns]
        for reason, turns in one.skipped.items()
    }
    speakers = f"{total.speakers} speakers"
    seconds = total.utterance_hours * 3600
    lines = summary_lines(dest, total.utterances, speakers, seconds, skipped)
    lines.append(
        f"{dest}: {len(talks)} of {len(one.meetings)} meetings, {total.words} words; "
        f"in {total.speech_hours:.2f} hours somebody speaks, in "
        f"{total.overlap_percent:.1f} % of them several do"
    )
    for change, turns in one.moved.items():
        first = min(turn.utt_id(microphone) for turn in turns)
        lines.append(f"{dest}: {len(turns)} x {change}; first: {first}")
    if one.missing:
        names = sorted(Path(path).stem for path in one.missing)
        lines.append(
            f"{dest}: {len(names)} recordings are missing (missing_recordings): "
            + _some(names)
        )
    counts = one.word_counts()
    lines.append(
        f"{dest}: of {one.words} words and punctuation marks of the annotation "
        + ", ".join(f"{number} {reason}" for reason, number in counts.items())
    )
    return lines


def _others(root: Path, partition: Mapping[str, Sequence[str]]) -> str:
    used = {meeting for meetings in partition.values() for meeting in meetings}
    participants = read_meetings(root)
    others = sorted(set(participants) - used)
    words = sum(count_words(root, name, participants[name]) for name in others)
    return (
        f"{root}: {len(others)} meetings with {words} words and punctuation marks are "
        f"in no set{': ' if others else ''}{_some(others)}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _tell_speed(sets: Mapping[str, MeetingSet], seconds: float) -> None:
    turns = [turn for one in sets.values() for turn in one.turns]
    hours = sum(turn.end - turn.start for turn in turns) / 360000
    print(
        f"{len(turns)} utterances, {hours:.2f} hours in {seconds:.1f} s: "
        f"{len(turns) / seconds:.0f} utterances, {hours / seconds:.2f} hours a second"
    )
