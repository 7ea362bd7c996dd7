"""Sets of AMI's utterances, with ids and speakers as in Kaldi's recipe."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from espnet2_birq.corpora.ami.annotation import (
    Participant,
    read_meetings,
    read_segments,
    read_words,
)
from espnet2_birq.corpora.ami.splitting import split_segment
from espnet2_birq.datadir.audio import AudioInfo, probe_apart
from espnet2_birq.errors import DataError, LfsPointerError

# An utterance that ends at most this long after its recording is shortened, otherwise
# skipped. The limit is Kaldi's.
MAX_OVERSHOOT = 50  # hundredths of a second
# A recording that ends longer than this before its last utterance is not the published
# one. Of the 170 files Mix-Headset, only TS3007c's ends before its last utterance, by
# 10.19 s.
MAX_SHORTFALL = 1500  # hundredths of a second
# Meetings whose array recordings are lost, according to AMI's page "data problems".
WITHOUT_ARRAY = ("IS1003b", "IS1007d")
# Reasons why a word is in no utterance, besides those in splitting.py.
PUNCTUATION = "it is a punctuation mark"
NO_SEGMENT = "it is in no segment"
TWICE = "its utterance occurs twice"
DROPPED = "its utterance is skipped"
HALVED = "it has a full stop inside, and one part of it is in no utterance"
# Reasons why an utterance is skipped.
NO_RECORDING = "there is no recording"
LOST = "its array's recording is lost"
TOO_LATE = "it ends after its recording"
INSIDE = "it lies inside another utterance of its speaker"


SKIP_BAD = "give --skip_bad (in a recipe, --skip_bad true) to do without"


@dataclass(frozen=True)
class Microphone:
    """Microphone condition, with its names in Kaldi's recipe.

    Attributes:
        name: Prefix of its sets' names, for example ihm in ihm_train.
        label: Part of utterance ids and recording names; "" for headsets, which use
            the headset's number.
        recording: Pattern of file names without .wav, with {meeting} and {headset}.
        folder: Pattern of the file's folder, with {meeting}.
        downloads: Patterns of the published files, in the form of `recording`.
    """

    name: str
    label: str
    recording: str
    folder: str
    downloads: tuple[str, ...]

    def label_of(self, headset: int) -> str:
        """Return the part of names that identifies a participant's microphone."""
        return self.label or f"H0{headset}"

    def file_name(self, meeting: str, headset: int) -> str:
        """Return a recording's name without .wav, as in stm files."""
        return self.recording.format(meeting=meeting, headset=headset)

    def path(self, audio: Path, meeting: str, headset: int) -> Path:
        """Return the path of a recording."""
        folder = audio / self.folder.format(meeting=meeting)
        return folder / f"{self.file_name(meeting, headset)}.wav"


_HEADSET = "{meeting}.Headset-{headset}"
_ARRAY = "{{meeting}}.Array1-0{}"
_MIX = "{meeting}.Mix-Headset"
MICROPHONES = {
    microphone.name: microphone
    for microphone in (
        Microphone("ihm", "", _HEADSET, "{meeting}/audio", (_HEADSET,)),
        Microphone(
            "sdm1", "SDM", _ARRAY.format(1), "{meeting}/audio", (_ARRAY.format(1),)
        ),
        Microphone(
            "mdm8",
            "MDM",
            "{meeting}_MDM8",
            "{meeting}",
            tuple(_ARRAY.format(number) for number in range(1, 9)),
        ),
        Microphone("mix", "MIX", _MIX, "{meeting}/audio", (_MIX,)),
    )
}


@dataclass(frozen=True)
class Turn:
    """Utterance of a meeting.

    Attributes:
        meeting: Name of the meeting.
        speaker: Global name of the participant.
        headset: Number of the participant's headset.
        start: Start in hundredths of a second.
        end: End in hundredths of a second.
        text: Normalised transcript.
        word_ids: Token ids of its words in the annotation.
        named_start: Annotated start, used in the id, if `start` was changed.
        named_end: Annotated end, used in the id, if `end` was changed.
    """

    meeting: str
    speaker: str
    headset: int
    start: int
    end: int
    text: str
    word_ids: tuple[str, ...] = ()
    named_start: int | None = None
    named_end: int | None = None

    def utt_id(self, microphone: Microphone) -> str:
        """Return ESPnet's id, for example AMI_ES2011a_H00_FEE041_0003415_0003484."""
        start = self.start if self.named_start is None else self.named_start
        end = self.end if self.named_end is None else self.named_end
        return f"{self.channel_speaker(microphone)}_{start:07d}_{end:07d}"

    def channel_speaker(self, microphone: Microphone) -> str:
        """Return the speaker's name in the meeting, e.g. AMI_ES2011a_H00_FEE041."""
        return f"{self.recording(microphone)}_{self.speaker}"

    def recording(self, microphone: Microphone) -> str:
        """Return the recording's name, e.g. AMI_ES2011a_H00."""
        return f"AMI_{self.meeting}_{microphone.label_of(self.headset)}"


@dataclass
class MeetingSet:
    """Utterances of a set, and the reason for each unused word.

    Attributes:
        name: train, dev or eval.
        meetings: Names of the meetings.
        turns: Utterances of the set.
        words: Number of words and punctuation marks in the meetings' annotation.
        unused: Mapping from the token id of each word in no utterance to the reason.
        halved: Token ids of words that are only partly in an utterance.
        skipped: Mapping from reason to skipped utterances.
        moved: Mapping from reason to utterances whose start or end was changed.
        missing: Mapping from the path of each missing recording to its number of
            utterances.
    """

    name: str
    meetings: list[str]
    turns: list[Turn] = field(default_factory=list)
    words: int = 0
    unused: dict[str, str] = field(default_factory=dict)
    halved: set[str] = field(default_factory=set)
    skipped: dict[str, list[Turn]] = field(default_factory=dict)
    moved: dict[str, list[Turn]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    def skip(self, turn: Turn, reason: str) -> None:
        """Record an utterance and its words as skipped."""
        self.skipped.setdefault(reason, []).append(turn)
        self.unused.update(dict.fromkeys(turn.word_ids, f"{DROPPED}: {reason}"))

    def word_counts(self) -> dict[str, int]:
        """Count words by reason, with "used" for the words of utterances."""
        counts = dict(Counter(self.unused.values()).most_common())
        halved = len(self.halved - self.unused.keys())
        if halved:
            counts[HALVED] = halved
        return {"used": self.words - len(self.unused) - halved, **counts}


def demand_meetings(
    root: Path, participants: Collection[str], meetings: Iterable[str]
) -> None:
    """Check that the annotation has some meetings.

    Args:
        root: Annotation folder, from find_annotation().
        participants: Its meetings, from read_meetings().
        meetings: Names of meetings.

    Raises:
        DataError: It lacks one.
    """
    for meeting in meetings:
        if meeting not in participants:
            raise DataError(
                f"{root}/corpusResources/meetings.xml: no meeting {meeting}; correct "
                "the partition, or take annotation 1.6.2"
            )


def cut_sets(
    root: Path, partition: Mapping[str, Sequence[str]], sets: Iterable[str]
) -> dict[str, MeetingSet]:
    """Cut the annotation into utterances.

    Args:
        root: Annotation folder, from find_annotation().
        partition: Mapping from set name to its meetings.
        sets: Names of the sets to make.

    Returns:
        Mapping from name to set. In dev and eval, utterances of a speaker do not
        overlap.

    Raises:
        DataError: A set has no meeting, a meeting is not in the annotation, or one of its
            files is bad.
    """
    participants = read_meetings(root)
    sets = list(sets)
    for name in sets:
        if not partition[name]:
            raise DataError(f"{name}: the partition lists no meeting for it; add one")
    made = {name: MeetingSet(name, list(partition[name])) for name in sets}
    jobs = [(one, meeting) for one in made.values() for meeting in one.meetings]
    demand_meetings(root, participants, (meeting for _, meeting in jobs))
    for one, meeting in tqdm(
        jobs, "annotation", unit="meeting", leave=False, disable=None
    ):
        for participant in participants[meeting]:
            _cut(root, meeting, participant, one)
    for one in made.values():
        _drop_doubles(one)
        if one.name != "train":
            _separate(one)
    return made


def count_words(root: Path, meeting: str, participants: Sequence[Participant]) -> int:
    """Count the words and punctuation marks of a meeting's annotation."""
    return sum(
        token.is_word
        for participant in participants
        for token in read_words(root, meeting, participant.letter)
    )


def drop_lost(sets: Mapping[str, MeetingSet], microphone: Microphone) -> None:
    """Skip meetings whose recordings by this microphone are lost.

    Args:
        sets: Mapping from name to set, changed in place.
        microphone: Microphone condition.
    """
    for one in sets.values():
        lost = [t for t in one.turns if _is_lost(microphone, t.meeting)]
        one.turns = [t for t in one.turns if not _is_lost(microphone, t.meeting)]
        for turn in lost:
            one.skip(turn, LOST)


def list_recordings(
    microphone: Microphone, meeting: str, participants: Sequence[Participant]
) -> list[str]:
    """List the published audio files of a meeting for a microphone.

    Args:
        microphone: Microphone condition.
        meeting: Name of the meeting.
        participants: Participants of the meeting.

    Returns:
        Paths relative to the mirror's root: amicorpus/<meeting>/audio/<file>.
    """
    if _is_lost(microphone, meeting):
        return []
    names = {
        pattern.format(meeting=meeting, headset=participant.headset)
        for pattern in microphone.downloads
        for participant in participants
    }
    return [f"amicorpus/{meeting}/audio/{name}.wav" for name in sorted(names)]


def find_audio(folder: str | Path) -> Path:
    """Find the folder that holds the meetings' folders.

    Args:
        folder: That folder, or its parent if it is called amicorpus/.

    Returns:
        Absolute path of that folder, symbolic links not resolved.

    Raises:
        DataError: There is no such folder.
    """
    # Not resolve(): users may give a link to avoid a path with spaces.
    folder = Path(folder).absolute()
    for audio in (folder / "amicorpus", folder):
        if audio.is_dir():
            return audio
    raise DataError(
        f"{folder}: no such folder; give the one with the meetings' folders, amicorpus/"
    )


def match_audio(
    sets: Mapping[str, MeetingSet],
    microphone: Microphone,
    audio: Path,
    fs: int | None,
    nj: int,
    skip_bad: bool,
) -> dict[str, AudioInfo]:
    """Open the recordings, and skip or shorten utterances that they do not contain.

    Args:
        sets: Mapping from name to set, changed in place.
        microphone: Microphone condition.
        audio: Audio folder, from find_audio().
        fs: Required sample rate in Hz; None accepts any.
        nj: Number of threads.
        skip_bad: Whether to skip utterances of bad and missing recordings, and those
            after a recording's early end, instead of raising an error.

    Returns:
        Mapping from the path of each good recording to its header.

    Raises:
        DataError: A recording is missing, bad, or ends more than MAX_SHORTFALL before
            its last utterance, and `skip_bad` is false.
        LfsPointerError: A recording is a git-LFS pointer.
    """
    path_of = {
        (turn.meeting, turn.headset): microphone.path(audio, turn.meeting, turn.headset)
        for one in sets.values()
        for turn in one.turns
    }
    wanted = sorted({str(path) for path in path_of.values()})
    there = [path for path in wanted if os.path.isfile(path)]
    if not skip_bad:
        _demand_recordings(wanted, there)
    fatal = (LfsPointerError,) if skip_bad else (DataError,)
    infos, bad = probe_apart(there, fs, nj, fatal)
    if not skip_bad:
        last: dict[str, int] = {}
        for turn in (turn for one in sets.values() for turn in one.turns):
            path = str(path_of[turn.meeting, turn.headset])
            last[path] = max(turn.end, last.get(path, 0))
        _demand_ends(infos, last)
    for one in sets.values():
        kept = []
        for turn in one.turns:
            path = str(path_of[turn.meeting, turn.headset])
            if path not in infos:
                if path not in bad:
                    one.missing[path] = one.missing.get(path, 0) + 1
                one.skip(turn, bad.get(path, NO_RECORDING))
            elif fitting := _fit(turn, infos[path], one):
                kept.append(fitting)
        one.turns = kept
    return infos


def _demand_recordings(wanted: Sequence[str], there: Collection[str]) -> None:
    if missing := sorted(set(wanted) - set(there)):
        raise DataError(
            f"{missing[0]}: no such recording, {len(missing)} of {len(wanted)} are "
            "missing; download them, or correct --audio (--ami of the recipe) and "
            f"--mic, or {SKIP_BAD}"
        )


def _demand_ends(infos: Mapping[str, AudioInfo], last: Mapping[str, int]) -> None:
    """Refuse recordings that end long before their last utterance."""
    short = [p for p in infos if last[p] > _length(infos[p]) + MAX_SHORTFALL]
    if short:
        path = short[0]
        raise DataError(
            f"{path}: ends at {infos[path].seconds:.1f} s, its annotation at "
            f"{last[path] / 100:.1f} s; {len(short)} of {len(infos)} recordings end so "
            f"early; download them again, or {SKIP_BAD}"
        )


def _length(info: AudioInfo) -> int:
    """Return a recording's length in whole hundredths of a second."""
    return info.frames * 100 // info.sample_rate  # seconds are not exact


def _is_lost(microphone: Microphone, meeting: str) -> bool:
    return "Array" in microphone.downloads[0] and meeting in WITHOUT_ARRAY


def _cut(root: Path, meeting: str, participant: Participant, one: MeetingSet) -> None:
    tokens = read_words(root, meeting, participant.letter)
    one.words += sum(token.is_word for token in tokens)
    reasons = {
        token.token_id: PUNCTUATION if token.is_punctuation else NO_SEGMENT
        for token in tokens
        if token.is_word
    }
    for segment in read_segments(root, meeting, participant.letter, tokens):
        cut = split_segment(segment)
        reasons.update(cut.lost)
        one.halved.update(cut.halved)
        for part in cut.parts:
            for token_id in part.word_ids:
                reasons.pop(token_id, None)
            one.turns.append(
                Turn(meeting, participant.speaker, participant.headset, *part)
            )
    one.unused.update(reasons)


def _drop_doubles(one: MeetingSet) -> None:
    """Keep the first of several utterances that differ only in their token ids."""
    seen: dict[tuple, Turn] = {}
    for turn in one.turns:
        key = (turn.meeting, turn.headset, turn.start, turn.end, turn.text)
        if seen.setdefault(key, turn) is not turn:
            one.skipped.setdefault(TWICE, []).append(turn)
            one.unused.update(dict.fromkeys(turn.word_ids, TWICE))
    one.turns = list(seen.values())


def _separate(one: MeetingSet) -> None:
    """Move starts so that utterances of the same speaker do not overlap.

    Scoring of overlapping speakers requires it. Ids keep the annotated start.
    """
    kept: list[Turn] = []
    previous_end: dict[tuple, int] = {}
    order = sorted(one.turns, key=lambda t: (t.meeting, t.headset, t.start, t.end))
    for turn in order:
        key = (turn.meeting, turn.headset)
        start = max(turn.start, previous_end.get(key, 0))
        previous_end[key] = max(turn.end, start)
        if start == turn.start:
            kept.append(turn)
        elif start < turn.end:
            kept.append(replace(turn, start=start, named_start=turn.start))
            one.moved.setdefault("begins later", []).append(kept[-1])
        else:
            one.skip(turn, INSIDE)
    one.turns = kept


def _fit(turn: Turn, info: AudioInfo, one: MeetingSet) -> Turn | None:
    limit = _length(info)
    if turn.end <= limit:
        return turn
    if turn.end > limit + MAX_OVERSHOOT or turn.start >= limit:
        one.skip(turn, TOO_LATE)
        return None
    shorter = replace(turn, end=limit, named_end=turn.end)
    one.moved.setdefault("ends with its recording", []).append(shorter)
    return shorter
