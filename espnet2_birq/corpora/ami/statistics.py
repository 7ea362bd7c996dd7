"""Amounts of speech and of overlapped speech in AMI's meetings."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from espnet2_birq.corpora.ami.corpus import Turn

COLUMNS = (
    "meeting",
    "speakers",
    "utterances",
    "words",
    "utterance_hours",
    "speech_hours",
    "overlap_hours",
    "overlap_percent",
)


@dataclass(frozen=True)
class Talk:
    """Amounts of speech in one or more meetings.

    Attributes:
        speakers: Number of different speakers.
        utterances: Number of utterances.
        words: Number of words.
        utterance_hours: Sum of the utterances' durations, in hours.
        speech_hours: Time in which at least one speaker is active, in hours.
        overlap_hours: Time in which at least two speakers are active, in hours.
    """

    speakers: int
    utterances: int
    words: int
    utterance_hours: float
    speech_hours: float
    overlap_hours: float

    @property
    def overlap_percent(self) -> float:
        """Overlapped speech in percent of all speech."""
        return (
            100 * self.overlap_hours / self.speech_hours if self.speech_hours else 0.0
        )


def measure(turns: Sequence[Turn]) -> dict[str, Talk]:
    """Measure the utterances of each meeting, and of all meetings as "total"."""
    of_meeting: dict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        of_meeting[turn.meeting].append(turn)
    talks = {name: _measure(of_meeting[name]) for name in sorted(of_meeting)}
    talks["total"] = Talk(
        len({turn.speaker for turn in turns}),
        *(
            sum(getattr(talk, name) for talk in talks.values())
            for name in Talk.__dataclass_fields__
            if name != "speakers"
        ),
    )
    return talks


def spoken_and_overlapped(
    intervals: Iterable[tuple[str, int, int]],
) -> tuple[int, int]:
    """Measure the times in which at least one and at least two speakers are active.

    Args:
        intervals: Tuples of speaker, start and end, in any order; intervals of one
            speaker may overlap.

    Returns:
        Both times, in the unit of the intervals.
    """
    changes = []
    for speaker, start, end in intervals:
        changes += [(start, 1, speaker), (end, -1, speaker)]
    speaking: dict[str, int] = defaultdict(int)
    spoken = overlapped = previous = 0
    for time, change, speaker in sorted(changes):
        voices = sum(count > 0 for count in speaking.values())
        spoken += (time - previous) * (voices >= 1)
        overlapped += (time - previous) * (voices >= 2)
        speaking[speaker] += change
        previous = time
    return spoken, overlapped


def make_table(talks: dict[str, Talk]) -> str:
    """Format the result of measure() as tab-separated lines with a header."""
    lines = ["\t".join(COLUMNS)]
    for name, talk in talks.items():
        lines.append(
            f"{name}\t{talk.speakers}\t{talk.utterances}\t{talk.words}\t"
            f"{talk.utterance_hours:.4f}\t{talk.speech_hours:.4f}\t"
            f"{talk.overlap_hours:.4f}\t{talk.overlap_percent:.1f}"
        )
    return "".join(f"{line}\n" for line in lines)


def _measure(turns: Sequence[Turn]) -> Talk:
    spoken, overlapped = spoken_and_overlapped(
        (turn.speaker, turn.start, turn.end) for turn in turns
    )
    hour = 100 * 3600
    return Talk(
        len({turn.speaker for turn in turns}),
        len(turns),
        sum(len(turn.text.split()) for turn in turns),
        sum(turn.end - turn.start for turn in turns) / hour,
        spoken / hour,
        overlapped / hour,
    )
