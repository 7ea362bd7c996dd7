"""How much is said in AMI's meetings, and how much of it at the same time."""

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
    """What is said in a meeting, or in several.

    Attributes:
        speakers: Number of different speakers.
        utterances: Number of utterances.
        words: Number of words.
        utterance_hours: Duration of all utterances together.
        speech_hours: How long at least one speaks.
        overlap_hours: How long at least two speak.
    """

    speakers: int
    utterances: int
    words: int
    utterance_hours: float
    speech_hours: float
    overlap_hours: float

    @property
    def overlap_percent(self) -> float:
        """Share of the time in which anybody speaks that several do."""
        return (
            100 * self.overlap_hours / self.speech_hours if self.speech_hours else 0.0
        )


def measure(turns: Sequence[Turn]) -> dict[str, Talk]:
    """Measure the utterances of each meeting, and of all together as "total"."""
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
    """Measure how long at least one and how long at least two speak.

    Args:
        intervals: Speaker, begin and end, in any order; one speaker's may overlap.

    Returns:
        Both, in the unit of the intervals.
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
    """Write what measure() measured as tab-separated lines with a head."""
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
