"""AMI's manual annotation 1.6.2 as it is published: NXT XML, read without Java.

words/<meeting>.<letter>.words.xml holds what a participant said, in order: words,
punctuation marks, vocal sounds, gaps. segments/<meeting>.<letter>.segments.xml divides
it into segments. corpusResources/meetings.xml tells whom the letter stands for and
which headset was worn; the channel in segments.xml is not always that headset.
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
    """An element of words.xml.

    Attributes:
        token_id: Unique name, as EN2001a.A.words12.
        is_word: It is a <w>: a word or a punctuation mark, not a sound or a gap.
        is_punctuation: It is a <w> marked as punctuation.
        text: What was said; "" if it is no <w>.
        start: Begin in seconds; NaN where the annotation gives none.
        end: End in seconds; NaN where the annotation gives none.
    """

    token_id: str
    is_word: bool
    is_punctuation: bool
    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Participant:
    """Who a letter stands for in a meeting.

    Attributes:
        letter: A to E.
        speaker: Global name, as FEE041: its first letter is the gender.
        headset: Number of the headset that was worn, 0 to 4.
    """

    letter: str
    speaker: str
    headset: int


def find_annotation(folder: str | Path) -> Path:
    """Find the folder that holds words/, segments/ and corpusResources/.

    Args:
        folder: That folder, or one that holds it, two levels up at most: archives of
            the annotation differ in their top folders.

    Returns:
        The folder.

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
        root: What find_annotation() found.

    Returns:
        Meeting to its participants, by letter.

    Raises:
        DataError: The file is missing or damaged, or a letter or a headset is there
            twice in a meeting.
    """
    path = root / "corpusResources" / "meetings.xml"
    meetings = {}
    for meeting in _parse(path).iter("meeting"):
        name = _attribute(path, meeting, "observation")
        participants = [
            Participant(
                _attribute(path, speaker, "nxt_agent"),
                _attribute(path, speaker, "global_name"),
                int(_attribute(path, speaker, "channel")),
            )
            for speaker in meeting.iter("speaker")
        ]
        for what in ("letter", "headset"):
            if len({getattr(p, what) for p in participants}) < len(participants):
                raise DataError(
                    f"{path}: {name} has two participants of one {what}; restore the "
                    "file from the annotation's zip file"
                )
        meetings[name] = sorted(participants, key=lambda p: p.letter)
    return meetings


def read_words(root: Path, meeting: str, letter: str) -> list[Token]:
    """Read all that a participant said, in order.

    Args:
        root: What find_annotation() found.
        meeting: The meeting.
        letter: The participant.

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
    """Read how what a participant said is divided into segments.

    Args:
        root: What find_annotation() found.
        meeting: The meeting.
        letter: The participant.
        words: What read_words() read.

    Returns:
        For each segment its tokens. Many hold no word.

    Raises:
        DataError: The file is missing or damaged, or names what is not in `words`.
    """
    path = root / "segments" / f"{meeting}.{letter}.segments.xml"
    index_of = {token.token_id: index for index, token in enumerate(words)}
    segments = []
    for segment in _parse(path):
        tokens: list[Token] = []
        for child in segment.iter(f"{_NITE}child"):
            # "file#id(first)..id(last)", or "file#id(only)".
            href = _attribute(path, child, "href")
            ids = _ID_IN_HREF.findall(href)
            if not ids or ids[0] not in index_of or ids[-1] not in index_of:
                raise DataError(
                    f"{path}: {href} is not in words/; restore both files from the "
                    "annotation's zip file"
                )
            tokens += words[index_of[ids[0]] : index_of[ids[-1]] + 1]
        segments.append(tokens)
    return segments


class _NoEntities(ElementTree.TreeBuilder):
    """Refuses declarations, with which a small file grows without bounds."""

    def doctype(self, name: str, pubid: str | None, system: str | None):
        """Refuse it; called before anything that it declares is used."""
        raise ValueError("it has a DOCTYPE, which the annotation does without")


def _parse(path: Path) -> ElementTree.Element:
    remedy = "restore it from the annotation's zip file"
    if not path.is_file():
        raise DataError(f"{path}: no such file; {remedy}")
    try:
        # The parser heeds the encoding in the file's first line, mostly ISO-8859-1.
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


def _seconds(path: Path, element: ElementTree.Element, name: str) -> float:
    value = element.get(name)
    if not value:
        return math.nan
    # Only a time that is not there is NaN: one that is written so is an error.
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
