"""Data directories of AMI's sets."""

from collections.abc import Mapping
from pathlib import Path

from espnet2_birq.corpora.ami.corpus import (
    HALVED,
    PUNCTUATION,
    MeetingSet,
    Microphone,
    Turn,
)
from espnet2_birq.corpora.ami.scoring import make_glm, make_stm
from espnet2_birq.corpora.ami.statistics import make_table, measure
from espnet2_birq.datadir.kaldi import Segment, Utterance, write_data_dir


def write_set(dest: Path, one: MeetingSet, microphone: Microphone, audio: Path) -> None:
    """Write a set as a Kaldi data directory.

    In addition to Kaldi's files, write stm and glm for scoring (dev and eval),
    statistics.tsv, words.tsv (numbers of used and unused words, by reason),
    unused_words (words in no utterance), skipped (skipped utterances) and, if any are
    missing, missing_recordings.

    Args:
        dest: Directory to write.
        one: The set.
        microphone: Microphone condition.
        audio: Folder that holds the meetings' folders.

    Raises:
        DataError: The set cannot be written.
    """
    extra = {
        "statistics.tsv": make_table(measure(one.turns)),
        "words.tsv": _lines(one.word_counts()),
        "unused_words": _lines(
            {word: why for word, why in one.unused.items() if why != PUNCTUATION}
            | dict.fromkeys(sorted(one.halved - one.unused.keys()), HALVED)
        ),
        "skipped": _lines(
            {
                turn.utt_id(microphone): reason
                for reason, turns in one.skipped.items()
                for turn in turns
            }
        ),
    }
    if one.name != "train":
        extra |= {"stm": make_stm(one.turns, microphone), "glm": make_glm()}
    if one.missing:
        extra["missing_recordings"] = _lines(one.missing)
    write_data_dir(
        dest, (utterance_of(one, turn, microphone, audio) for turn in one.turns), extra
    )


def utterance_of(
    one: MeetingSet, turn: Turn, microphone: Microphone, audio: Path
) -> Utterance:
    """Convert an utterance, with ESPnet's names of utterance, speaker and recording.

    For headsets, the speaker is the participant in the meeting. For distant
    microphones, it is the meeting in train, and the recording's name plus an underscore
    in dev and eval.
    """
    if not microphone.label:
        speaker = turn.channel_speaker(microphone)
    elif one.name == "train":
        speaker = f"AMI_{turn.meeting}"
    else:
        speaker = f"{turn.recording(microphone)}_"
    return Utterance(
        turn.utt_id(microphone),
        speaker,
        str(microphone.path(audio, turn.meeting, turn.headset)),
        turn.text,
        Segment(turn.recording(microphone), turn.start / 100, turn.end / 100),
    )


def _lines(pairs: Mapping[str, object]) -> str:
    return "".join(f"{key}\t{value}\n" for key, value in pairs.items())
