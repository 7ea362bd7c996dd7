"""Reader of AMI's manual annotation 1.6.2 (NXT XML), without Java.

words/<meeting>.<letter>.words.xml lists what a participant said: words, punctuation
marks, vocal sounds, gaps. segments/<meeting>.<letter>.segments.xml divides this list
into segments. corpusResources/meetings.xml maps letters to speakers and headsets; the
channel in segments.xml is not always that headset.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from espnet2_birq.errors import DataError

_NITE = "{http://nite.sourceforge.net/}"
_ID_IN_HREF = re.compile(r"id\(([^)]*)\)")


class Token(NamedTuple):
    """Element of words.xml.

    Attributes:
        token_id: Unique id, for example EN2001a.A.words12.
        is_word: Whether it is a <w> (word or punctuation mark), not a sound or a gap.
        is_punctuation: Whether it is a <w> marked as punctuation.
        text: Content of a <w>; "" for other elements.
        start: Start in seconds; NaN if not annotated.
        end: End in seconds; NaN if not annotated.
    """

    token_id: str
    is_word: bool
    is_punctuation: bool
    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Participant:
    """Participant of a meeting.

    Attributes:
        letter: Letter in the meeting's file names, A to E.
        speaker: Global name, for example FEE041; its first letter is the gender.
        headset: Number of the participant's headset, 0 to 4.
    """

    letter: str
    speaker: str
    headset: int


def find_annotation(folder: str | Path) -> Path:
    """Find the folder that holds words/, segments/ and corpusResources/.

    Args:
        folder: That folder, or one up to two levels above, since archives of the
            annotation differ in their top folders.

    Returns:
        Path of that folder.

    Raises:
        DataError: There is no such folder.
    """
    folder = Path(folder)
    for root in (folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))):
        if (root / "words").is_dir() and (root / "segments").is_dir():
            return root
    raise DataError(
        f"{folder}: no words/ and segments/ in it; give the folder where "
        "ami_public_manual_1.6.2.zip was unpacked"
    )


def read_meetings(root: Path) -> dict[str, list[Participant]]:
    """Read corpusResources/meetings.xml.

    Args:
        root: Annotation folder, from find_annotation().

    Returns:
        Mapping from meeting to its participants, sorted by letter.

    Raises:
        DataError: The file is missing or damaged, a meeting occurs twice, or two
            participants of a meeting have the same letter or headset.
    """
    path = root / "corpusResources" / "meetings.xml"
    meetings: dict[str, list[Participant]] = {}
    for meeting in _parse(path).iter("meeting"):
        name = _attribute(path, meeting, "observation")
        participants = [
            Participant(
                _attribute(path, speaker, "nxt_agent"),
                _attribute(path, speaker, "global_name"),
                _channel(path, speaker),
            )
            for speaker in meeting.iter("speaker")
        ]
        if name in meetings:
            raise DataError(
                f"{path}: meeting {name} occurs twice; restore the file from the "
                "annotation's zip file"
            )
        for what in ("letter", "headset"):
            if len({getattr(p, what) for p in participants}) < len(participants):
                raise DataError(
                    f"{path}: {name} has two participants of one {what}; restore the "
                    "file from the annotation's zip file"
                )
        meetings[name] = sorted(participants, key=lambda p: p.letter)
    return meetings


def read_words(root: Path, meeting: str, letter: str) -> list[Token]:
    """Read everything a participant said, in order.

    Args:
        root: Annotation folder, from find_annotation().
        meeting: Name of the meeting.
        letter: Letter of the participant.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = root / "words" / f"{meeting}.{letter}.words.xml"
    return [
        Token(
            _attribute(path, element, f"{_NITE}id"),
            element.tag == "w",
            element.tag == "w" and element.get("punc") == "true",
            (element.text or "").strip() if element.tag == "w" else "",
            _seconds(path, element, "starttime"),
            _seconds(path, element, "endtime"),
        )
        for element in _parse(path)
    ]


def read_segments(
    root: Path, meeting: str, letter: str, words: list[Token]
) -> list[list[Token]]:
    """Read a participant's segments.

    Args:
        root: Annotation folder, from find_annotation().
        meeting: Name of the meeting.
        letter: Letter of the participant.
        words: All tokens of the participant, from read_words().

    Returns:
        Tokens of each segment. Many segments have no words.

    Raises:
        DataError: The file is missing or damaged, or refers to a token that is not in
            `words`, or a segment ends before it starts.
    """
    path = root / "segments" / f"{meeting}.{letter}.segments.xml"
    index_of = {token.token_id: index for index, token in enumerate(words)}
    segments = []
    for segment in _parse(path):
        tokens: list[Token] = []
        for child in segment.iter(f"{_NITE}child"):
            # "file#id(first)..id(last)", or "file#id(only)" for a single token
            href = _attribute(path, child, "href")
            ids = _ID_IN_HREF.findall(href)
            if not ids or ids[0] not in index_of or ids[-1] not in index_of:
                raise DataError(
                    f"{path}: {href} is not in words/; restore both files from the "
                    "annotation's zip file"
                )
            first, last = index_of[ids[0]], index_of[ids[-1]]
            if first > last:
                raise DataError(
                    f"{path}: {href} ends before it starts; restore both files from "
                    "the annotation's zip file"
                )
            tokens += words[first : last + 1]
        segments.append(tokens)
    return segments


class _NoEntities(ElementTree.TreeBuilder):
    """Tree builder that refuses declarations, which could expand without bounds."""

    def doctype(self, name: str, pubid: str | None, system: str | None):
        """Refuse a DOCTYPE; called before any of its declarations is used."""
        raise ValueError("it has a DOCTYPE, which the annotation does without")


def _parse(path: Path) -> ElementTree.Element:
    remedy = "restore it from the annotation's zip file"
    if not path.is_file():
        raise DataError(f"{path}: no such file; {remedy}")
    try:
        # The parser uses the encoding declared in the file, mostly ISO-8859-1.
        parser = ElementTree.XMLParser(target=_NoEntities())
        return ElementTree.parse(path, parser).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not readable as XML ({error}); {remedy}") from error


def _attribute(path: Path, element: ElementTree.Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise DataError(
            f"{path}: <{element.tag}> without {name.removeprefix(_NITE)}; restore it "
            "from the annotation's zip file"
        )
    return value


def _channel(path: Path, speaker: ElementTree.Element) -> int:
    value = _attribute(path, speaker, "channel")
    if not (value.isdecimal() and len(value) < 5):
        raise DataError(
            f"{path}: channel {value[:80]!r} is no number; restore the file from the "
            "annotation's zip file"
        )
    return int(value)


def _seconds(path: Path, element: ElementTree.Element, name: str) -> float:
    value = element.get(name)
    if not value:
        return math.nan
    # NaN means a missing attribute only; "NaN" in the file is an error.
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise DataError(
            f"{path}: {name} {value!r} is not a number; restore the file from the "
            "annotation's zip file"
        )
    return seconds
