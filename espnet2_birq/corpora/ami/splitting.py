"""Splitting of AMI's segments into utterances, by the rules of Kaldi's AMI recipe.

Segments are cut at full stops and question marks. Parts of more than 30 words are cut
recursively at the comma nearest to their middle. The rules are those of
local/ami_split_segments.pl, which ESPnet's recipe also uses, including their side
effects, so that utterances and word counts match published ones. In addition, each word
is tracked, so that every lost word has a reason.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from espnet2_birq.corpora.ami.annotation import Token

MAX_WORDS = 30
# Reasons why a word is in no utterance.
UNTIMED_SEGMENT = "its segment has no begin or no end"
UNTIMED_PUNCTUATION = "a punctuation mark of its segment has no time"
NO_DURATION = "its part of the segment has no duration"
SAME_TIMES = "another part of the segment has the same times"
ERASED = "nothing of it is left by the normalisation"

_PUNCTUATION = re.compile(r"[.,?!:]$")
_TIME = re.compile(r"[0-9]+\.[0-9]*")
_FULL_STOP = re.compile(r"[.?]")
_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
# Applied in this order: "-" is removed first, then restored in the last two.
_NORMALISATION = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[.,?!:][0-9]+", ""),  # labels of punctuation marks, see _label
        (r"[A-Z']+,[A-Z']+", " "),  # deletes both words of "UM,I", as in Kaldi
        (r"-", " "),
        (r"_", ". "),  # T_V_ becomes T. V.
        (r"^\s+|\s+$", ""),
        (r"\s+", " "),
        (r"MM HMM", "MM-HMM"),
        (r"UH HUH", "UH-HUH"),
    )
)


class Part(NamedTuple):
    """Utterance cut from a segment.

    Attributes:
        start: Start in hundredths of a second.
        end: End in hundredths of a second.
        text: Normalised transcript.
        word_ids: Token ids of its words in the annotation.
    """

    start: int
    end: int
    text: str
    word_ids: tuple[str, ...]


@dataclass
class Cut:
    """Result of splitting a segment.

    Attributes:
        parts: Utterances, in order of time.
        lost: Mapping from the token id of each word in no utterance to the reason;
            punctuation marks are not included.
        halved: Token ids of words with a full stop inside (line.I) that are only partly
            in an utterance.
    """

    parts: list[Part] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    halved: list[str] = field(default_factory=list)


class _Span(NamedTuple):
    """Span of a segment's text, as character offsets."""

    first: int
    last: int


# Spans by start and end in hundredths of a second: a later span with the same times
# replaces an earlier one.
_Spans = dict[tuple[int, int], _Span]


def split_segment(tokens: Sequence[Token]) -> Cut:
    """Cut a segment into utterances.

    Args:
        tokens: Tokens of the segment, words or not. The segment starts with the first
            token and ends with the last.

    Returns:
        Utterances and lost words; both empty for a segment without words.
    """
    words = [token for token in tokens if token.is_word and token.text]
    cut = Cut()
    spoken = {i for i, word in enumerate(words) if not word.is_punctuation}
    if not words:
        return cut
    start, end = tokens[0].start, tokens[-1].end
    if start != start or end != end:
        return _lose(cut, words, spoken, UNTIMED_SEGMENT)
    labelled = _label(words)
    if labelled is None:
        return _lose(cut, words, spoken, UNTIMED_PUNCTUATION)
    text, owners, stop_times, comma_times = labelled

    spans = _split_at_full_stops(text, [start, *stop_times, end], comma_times)
    reason = dict.fromkeys(spoken, SAME_TIMES)
    for (first, last), span in sorted(spans.items()):
        part_text, part_owners = _normalise(
            text[span.first : span.last], owners[span.first : span.last]
        )
        kept = {o for c, o in zip(part_text, part_owners) if c != " "} & spoken
        inside = set(owners[span.first : span.last]) & spoken
        if first >= last:
            reason.update(dict.fromkeys(inside & reason.keys(), NO_DURATION))
            continue
        if part_text:
            ids = tuple(words[o].token_id for o in sorted(kept & reason.keys()))
            cut.parts.append(Part(first, last, part_text, ids))
        for owner in kept:
            reason.pop(owner, None)
        reason.update(dict.fromkeys((inside - kept) & reason.keys(), ERASED))
    for owner, why in reason.items():
        cut.lost[words[owner].token_id] = why
    used = [span for (first, last), span in spans.items() if first < last]
    for owner in sorted(spoken - reason.keys()):
        if _FULL_STOP.search(words[owner].text) and any(
            not any(span.first <= i < span.last for span in used)
            for i, (o, c) in enumerate(zip(owners, text))
            if o == owner and c.isalnum()
        ):
            cut.halved.append(words[owner].token_id)
    return cut


def _lose(cut: Cut, words: Sequence[Token], spoken: set[int], why: str) -> Cut:
    cut.lost.update({words[index].token_id: why for index in spoken})
    return cut


def _label(
    words: Sequence[Token],
) -> tuple[str, list[int], list[float], dict[str, float]] | None:
    """Number all punctuation marks except full stops, so that each can be found later.

    Returns:
        Text in upper case with ",0" for the first comma and so on; the word index of
        each character; the times of full stops; and a mapping from label to time. None
        if the numbers of marks and times differ.
    """
    fields = [(part, i) for i, word in enumerate(words) for part in word.text.split()]
    # Kaldi's script has texts and times in one line, so it takes a word such as 8.5 for a
    # time.
    times = [float(part) for part, _ in fields if _TIME.match(part)]
    times += sorted(w.start for w in words if w.is_punctuation and w.start == w.start)
    fields = [(part, i) for part, i in fields if not _TIME.match(part)]
    marks = [n for n, (part, _) in enumerate(fields) if _PUNCTUATION.match(part)]
    if len(marks) != len(times):
        return None
    stop_times: list[float] = []
    comma_times: dict[str, float] = {}
    for n, time in zip(marks, times):
        mark, owner = fields[n]
        if _FULL_STOP.match(mark):
            stop_times.append(time)
        else:
            label = f"{mark}{len(comma_times)}"
            fields[n] = (label, owner)
            comma_times[label] = time
    text = " ".join(part for part, _ in fields).translate(_UPPER)
    owners: list[int] = []
    for part, owner in fields:
        owners += [owner] * (len(part) + 1)
    return text, owners[:-1], stop_times, comma_times


def _split_at_full_stops(
    text: str, times: Sequence[float], comma_times: dict[str, float]
) -> _Spans:
    spans: _Spans = {}
    for i, span in enumerate(_split(_FULL_STOP, text, _Span(0, len(text)))):
        # A full stop inside a word has no time. With 0, the part has no duration and is
        # dropped.
        start = times[i] if i < len(times) else 0.0
        end = times[i + 1] if i + 1 < len(times) else 0.0
        if _is_short(text, span):
            spans[_hundredths(start), _hundredths(end)] = span
        else:
            for key, part in _split_at_comma(
                text, span, comma_times, start, end
            ).items():
                spans.setdefault(key, part)
    return spans


def _split_at_comma(
    text: str, span: _Span, comma_times: dict[str, float], start: float, end: float
) -> _Spans:
    middle, nearest, label = (start + end) / 2, start, ""
    # Kaldi's script sorts the times as text, which matters beyond 999.99 s.
    for candidate, time in sorted(comma_times.items(), key=lambda c: str(c[1])):
        if time == end:
            break
        if time != start and abs(middle - time) < abs(middle - nearest):
            nearest, label = time, candidate
    if not label.startswith(","):
        return {(_hundredths(start), _hundredths(end)): span}
    spans: _Spans = {}
    for i, part in enumerate(_split(re.compile(rf"{label}\s+"), text, span)):
        begin, finish = (start, nearest) if i == 0 else (nearest, end)
        if _is_short(text, part):
            spans[_hundredths(begin), _hundredths(finish)] = part
        else:
            for key, finer in _split_at_comma(
                text, part, comma_times, begin, finish
            ).items():
                spans.setdefault(key, finer)
    return spans


def _split(separator: re.Pattern[str], text: str, span: _Span) -> list[_Span]:
    """Split like Perl: drop empty parts at the end."""
    parts, first = [], span.first
    for match in separator.finditer(text, span.first, span.last):
        parts.append(_Span(first, match.start()))
        first = match.end()
    parts.append(_Span(first, span.last))
    while parts and parts[-1].first == parts[-1].last:
        parts.pop()
    return parts


def _is_short(text: str, span: _Span) -> bool:
    # Labels of punctuation marks count as words.
    return len(text[span.first : span.last].split()) <= MAX_WORDS


def _hundredths(seconds: float) -> int:
    # Truncated, not rounded.
    return int(seconds * 100)


def _normalise(text: str, owners: list[int]) -> tuple[str, list[int]]:
    for pattern, replacement in _NORMALISATION:
        text, owners = _substitute(pattern, replacement, text, owners)
    return text, owners


def _substitute(
    pattern: re.Pattern[str], replacement: str, text: str, owners: list[int]
) -> tuple[str, list[int]]:
    if not pattern.search(text):
        return text, owners
    new_owners: list[int] = []
    position = 0
    for match in pattern.finditer(text):
        new_owners += owners[position : match.start()]
        if len(replacement) == match.end() - match.start():
            new_owners += owners[match.start() : match.end()]
        else:
            new_owners += [owners[match.start()]] * len(replacement)
        position = match.end()
    return pattern.sub(replacement, text), new_owners + owners[position:]
