"""Phone alignments from CTM files, Praat's TextGrids or lines of `PHONE:frames`.

    read_alignments(path) -> {utterance: Alignment}
    Alignment.frame_labels(frames, shift, classes) -> (T,) class of each frame

The label of frame t with frame shift s is the phone at the centre of its hop, at time
(t + 1/2) s. With four 10 ms frames per encoder frame, that is the start of the third. The
receptive field of ESPnet's `conv2d` is centred 10 ms later, that of the stacked input
frames 5 ms earlier; one choice for all keeps labels comparable.

Times are in whole microseconds, so that a centre on the border of two phones always
belongs to the later one, in every file format.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.phones.textgrid import read_textgrid
from espnet2_birq.reading import read_lines

SILENCE = "SIL"
# Names of silence: MFA (empty, sil, sp), Kaldi (SIL, <eps>), TIMIT (h#, pau).
_SILENCES = {"", "sil", "sp", "<eps>", "h#", "pau"}
_POSITION = re.compile(r"_[BIES]$")  # Kaldi's position in the word
_STRESSED = re.compile(r"^([A-Z]{2})[012]$")  # vowels of ARPAbet
_FRAMES = re.compile(r"(\S+):(\d{1,9})$")
FRAME = 10_000  # microseconds per frame of `PHONE:frames`
# Largest overlap of adjacent phones that rounding to 10 ms can cause.
OVERLAP = 10_000  # microseconds
LATEST = 10**15  # microseconds (30 years); a later time must be damaged
_Interval = tuple[int, int, str, str]  # start and end in microseconds, phone, location
FORMATS = (
    "a CTM (`utterance channel start duration phone`), a TextGrid, a folder of "
    "<utterance>.TextGrid, or lines of `utterance, tab, PHONE:n ...`"
)


@dataclass(frozen=True)
class Alignment:
    """Phones of one utterance, in order.

    Attributes:
        starts: Start times in microseconds, (N,) int64.
        ends: End times in microseconds, (N,) int64.
        phones: Names of the N phones.
        where: File, and line if it has many utterances, for messages.
    """

    starts: np.ndarray
    ends: np.ndarray
    phones: tuple[str, ...]
    where: str

    @property
    def seconds(self) -> float:
        """End of the last phone in seconds."""
        return self.ends[-1] / 1e6

    def frame_labels(
        self, frames: int, shift: float, classes: Sequence[str]
    ) -> np.ndarray:
        """Return the class of the phone at the centre of each frame's hop.

        Args:
            frames: Number of frames T.
            shift: Frame shift in seconds.
            classes: Phones, ordered by class index.

        Returns:
            Class indices, (T,) int64; -1 where there is no phone, or one that is not
            in `classes`.
        """
        numbers = {phone: number for number, phone in enumerate(classes)}
        of_phone = np.array([numbers.get(phone, -1) for phone in self.phones])
        centres = np.rint((np.arange(frames) + 0.5) * shift * 1e6).astype(np.int64)
        index = np.searchsorted(self.starts, centres, side="right") - 1
        inside = (index >= 0) & (centres < self.ends[index])
        return np.where(inside, of_phone[index], -1)


def phone_classes(
    alignments: Iterable[Alignment], silence: bool = True
) -> tuple[str, ...]:
    """List the phones that occur, sorted; without SIL if `silence` is false."""
    found = {phone for alignment in alignments for phone in alignment.phones}
    return tuple(sorted(found if silence else found - {SILENCE}))


def read_alignments(
    path: str | Path, names: Collection[str] | None = None, tier: str = "phones"
) -> dict[str, Alignment]:
    """Read alignments in any of the formats.

    Stress (AH0) and position in the word (AH_B) are removed; all names of silence
    become SIL.

    Args:
        path: File, possibly gzip-compressed, or folder of TextGrids, possibly in
            subfolders per speaker.
        names: Utterances to keep; None keeps all.
        tier: TextGrid tier with the phones.

    Returns:
        Mapping from utterance to alignment.

    Raises:
        DataError: A file is missing or in none of the formats, phones of an utterance
            overlap, or none of the utterances is found.
    """
    path = Path(path)
    if path.is_dir():
        utterances = _from_folder(path, names, tier)
    elif not path.is_file():
        raise DataError(f"{path}: no such alignment; give {FORMATS}")
    elif path.suffix.lower() == ".textgrid":
        utterances = iter([_from_textgrid(path, tier)])
    else:
        utterances = _from_lines(path, names)
    found: dict[str, Alignment] = {}
    for name, alignment in utterances:
        if name in found:
            raise DataError(
                f"{alignment.where}: utterance {name} occurs twice "
                f"({found[name].where}); sort the lines, or remove one of them"
            )
        if names is None or name in names:
            found[name] = alignment
    if not found:
        raise DataError(f"{path}: contains none of the utterances to measure")
    return found


def _make(where: str, intervals: Sequence[_Interval]) -> Alignment:
    """Make an alignment from intervals, without those of zero length.

    Raises:
        DataError: Intervals overlap, or are not in order.
    """
    intervals = [one for one in intervals if one[0] != one[1]]
    if not intervals:
        raise DataError(
            f"{where}: all phones have length 0; align this utterance again"
        )
    before = 0
    for start, end, _, place in intervals:
        if start < before - OVERLAP or end < start or end > LATEST:
            raise DataError(
                f"{place}: from {start / 1e6:g} to {end / 1e6:g} s, but the phone "
                f"before ends at {before / 1e6:g} s; sort them by time"
            )
        before = end
    starts, ends, phones, _ = zip(*intervals)
    return Alignment(
        np.array(starts), np.array(ends), tuple(map(_normalise, phones)), where
    )


def _normalise(phone: str) -> str:
    phone = _POSITION.sub("", phone.strip())
    phone = _STRESSED.sub(r"\1", phone)
    return SILENCE if phone.casefold() in _SILENCES else phone


def _from_folder(
    folder: Path, names: Collection[str] | None, tier: str
) -> Iterator[tuple[str, Alignment]]:
    files = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() == ".textgrid"
    )
    if not files:
        raise DataError(f"{folder}: no TextGrid below this folder; give {FORMATS}")
    for file in files:
        if names is None or file.stem in names:
            yield _from_textgrid(file, tier)


def _from_textgrid(path: Path, tier: str) -> tuple[str, Alignment]:
    intervals = [
        (_microseconds(start), _microseconds(end), phone, f"{path}: line {line}")
        for start, end, phone, line in read_textgrid(path, tier)
    ]
    return path.stem, _make(str(path), intervals)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _from_lines(
    path: Path, names: Collection[str] | None
) -> Iterator[tuple[str, Alignment]]:
    lines = (
        (f"{path}: line {number}", line.rstrip("\n"))
        for number, line in enumerate(read_lines(path), 1)
        if line.strip() and not line.startswith(";;")  # a CTM comment
    )
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path}: empty; give {FORMATS}")
    # A CTM may have tabs, too, and phones as `a:`.
    second = first[1].partition("\t")[2].split()[:1]

    def all_lines():
        yield first
        yield from lines

    if second and _FRAMES.match(second[0]):
        yield from _from_frames(all_lines(), names)
    else:
        yield from _refuse_numbers(path, _from_ctm(all_lines(), names))


def _refuse_numbers(path: Path, utterances: Iterable[tuple[str, Alignment]]):
    phones: set[str] = set()
    for name, alignment in utterances:
        phones.update(alignment.phones)
        yield name, alignment
    if phones and all(map(str.isdecimal, phones)):
        raise DataError(
            f"{path}: its phones are numbers, whose silence and stress are not known; "
            "convert them with Kaldi's utils/int2sym.pl -f 5 phones.txt"
        )


def _from_frames(lines: Iterable[tuple[str, str]], names: Collection[str] | None):
    for where, line in lines:
        name, tab, row = line.partition("\t")
        if not tab or not name or not row.strip():
            raise DataError(f"{where} is not `utterance, tab, PHONE:n PHONE:n ...`")
        if names is not None and name not in names:
            continue
        intervals: list[_Interval] = []
        now = 0
        for field in row.split():
            match = _FRAMES.match(field)
            if not match:
                raise DataError(f"{where}: {field!r} is not `PHONE:frames`")
            end = now + int(match[2]) * FRAME
            intervals.append((now, end, match[1], where))
            now = end
        yield name, _make(where, intervals)


def _from_ctm(lines: Iterable[tuple[str, str]], names: Collection[str] | None):
    current, begun = None, ""
    intervals: list[_Interval] = []
    for where, line in lines:
        fields = line.split()
        try:
            name, _, start, duration, phone = fields[:5]
            times = _microseconds(float(start)), _microseconds(float(duration))
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{where}: {line[:80]!r} is no line of {FORMATS}"
            ) from error
        if min(times) < 0:
            raise DataError(f"{where}: starts before 0 or has a negative duration")
        if name != current:
            if intervals:
                yield current, _make(begun, intervals)
            current, begun, intervals = name, where, []
        if names is None or name in names:
            intervals.append((times[0], sum(times), phone, where))
    if intervals:
        yield current, _make(begun, intervals)
