"""Checks of Kaldi data directories before training.

Lists are sorted, so they are merged in constant memory. `segments` may not be sorted by
recording, so it is sorted on disk.
"""

import math
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from espnet2_birq.datadir.adopt import is_formatted, read_feats_type
from espnet2_birq.datadir.audio import (
    AudioInfo,
    iter_probe,
    probe_command,
    probe_entry,
)
from espnet2_birq.datadir.kaldi import OTHER_SPACE, iter_scp, parse_samples
from espnet2_birq.datadir.paths import PathResolver
from espnet2_birq.datadir.stream import ExternalSort, draw, iter_spk2utt, merge
from espnet2_birq.errors import DataError, SampleRateError

SAMPLE_SIZE = 200
MAX_KINDS = 20  # lines per directory, to fit on a screen
# Ends of segments are often rounded to 10 ms, so they may exceed the audio by that much.
END_TOLERANCE = 0.01  # seconds
# Lengths in seconds below and above which to warn. ESPnet's input layers need up to 15
# frames (conv2d8; conv2d: 7), commonly of 10 ms, for at least one output frame.
SHORT, LONG = 0.15, 3600.0
FIX = "run utils/fix_data_dir.sh"


@dataclass
class Finding:
    """Occurrences of one kind of error or warning.

    Attributes:
        count: Number of occurrences.
        first: Id or file of the first occurrence.
    """

    count: int
    first: str


@dataclass
class Report:
    """Result of the check of one data directory.

    Attributes:
        problems: Mapping from error message, with remedy, to its occurrences.
        warnings: The same for possible errors.
        utterances: Number of utterances.
        speakers: Number of speakers; None if unknown.
        opened: Number of audio files that were opened and are good.
        seconds: Total duration of these files in seconds.
        shortest: Duration of the shortest segment or opened audio file, in seconds.
        longest: Duration of the longest one, in seconds.
    """

    problems: dict[str, Finding] = field(default_factory=dict)
    warnings: dict[str, Finding] = field(default_factory=dict)
    utterances: int = 0
    speakers: int | None = 0
    opened: int = 0
    seconds: float = 0.0
    shortest: float = float("inf")
    longest: float = 0.0

    def error(self, kind: str, where: str) -> None:
        """Count an error."""
        _count(self.problems, kind, where)

    def warn(self, kind: str, where: str) -> None:
        """Count a possible error."""
        _count(self.warnings, kind, where)

    def length(self, seconds: float, where: str) -> None:
        """Record an utterance's duration in seconds, and warn if it is unusual."""
        self.shortest = min(self.shortest, seconds)
        self.longest = max(self.longest, seconds)
        if seconds < SHORT:
            self.warn(
                f"utterance is shorter than {SHORT} s, for which some encoders have no "
                "output frame; leave it out",
                where,
            )
        if seconds > LONG:
            self.warn(
                f"utterance is longer than {LONG / 3600:.0f} h; cut it with segments",
                where,
            )


def describe(folder: str | Path, report: Report) -> list[str]:
    """Format a report as lines that fit on a screen.

    Args:
        folder: The data directory.
        report: Result of check_data_dir().

    Returns:
        At most MAX_KINDS lines with a kind of error or warning each, a line that counts
        any others, and a line with the verdict and the amount of speech.
    """
    lines = []
    for level, found in (("error", report.problems), ("warning", report.warnings)):
        for kind, finding in found.items():
            lines.append(
                f"{folder}: {level}: {finding.count} x {kind}; first: {finding.first}"
            )
    if len(lines) > MAX_KINDS:
        hidden = len(lines) - MAX_KINDS
        lines[MAX_KINDS:] = [f"{folder}: and {hidden} more kinds; fix these first"]
    speakers = "?" if report.speakers is None else report.speakers
    last = (
        f"{folder}: {'NOT ok' if report.problems else 'ok'}: "
        f"{report.utterances} utterances, {speakers} speakers; opened "
        f"{report.opened} audio files, {report.seconds / 3600:.2f} hours"
    )
    if report.longest:
        last += f"; utterances of {report.shortest:.2f} to {report.longest:.2f} s"
    return [*lines, last]


@dataclass(frozen=True)
class _Audio:
    name: str
    entry: str  # as in wav.scp
    samples: int | None = None  # as in utt2num_samples
    segments: tuple[tuple[str, float, float], ...] | None = None  # utterance, s, s


def check_data_dir(
    folder: str | Path,
    fs: int | None = None,
    full: bool = False,
    nj: int = 4,
    seed: int = 0,
    rate_remedy: str = "",
    decode: bool = False,
) -> Report:
    """Check a data directory: its lists, their consistency, and its audio.

    Audio is checked as in datadir/audio.py; commands in wav.scp are run.

    Args:
        folder: Directory with wav.scp, and optionally utt2spk, segments, text, spk2utt,
            utt2num_samples.
        fs: Required sample rate in Hz; None accepts any.
        full: Whether to open all audio instead of a random sample of 200 files.
        nj: Number of threads.
        seed: Seed of the random sample.
        rate_remedy: Advice to add to errors of the sample rate. Not used for a
            formatted set, which no later stage resamples.
        decode: Whether to open all audio, and to decode all of it.

    Returns:
        Report of all problems; none is raised.
    """
    return _Check(Path(folder), rate_remedy, decode).run(fs, full, nj, seed)


class _Check:
    def __init__(self, folder: Path, rate_remedy: str, decode: bool):
        self.folder, self.decode = folder, decode
        self.report = Report()
        self.rate_remedy = rate_remedy
        if is_formatted(folder):
            self.rate_remedy = "or format the Kaldi data directory behind it again"
        self.broken: set[str] = set()  # files that could not be read to their end
        # Mapping from kind of mismatch to its occurrences and the two files. Reported
        # only after both are read completely: if one is unsorted, they are meaningless.
        self.mismatches: dict[str, tuple[Finding, set[str]]] = {}
        self.resolver = PathResolver(folder)

    def run(self, fs: int | None, full: bool, nj: int, seed: int) -> Report:
        feats_type = self.folder / "feats_type"
        if feats_type.exists() and (kind := read_feats_type(self.folder)) != "raw":
            self.report.error(
                f"feats_type is {kind}: features, not audio; give a set of audio (raw)",
                str(feats_type),
            )
            return self.report
        if (self.folder / "segments").exists():
            audio = self._segmented_audio()
        else:
            audio = self._audio()
        audio = audio if full or self.decode else iter(draw(audio, SAMPLE_SIZE, seed))
        self._open(audio, fs, nj)
        if (self.folder / "spk2utt").exists():
            self._compare_spk2utt()
        if (self.folder / "text").exists():
            self._check_spaces()
        for kind, (finding, files) in self.mismatches.items():
            if not files & self.broken:
                self.report.problems[kind] = finding
        for name in sorted(self.broken):
            if (self.folder / name).exists():
                kind = "not compared with the other files; fix it and check again"
                self.report.warn(kind, str(self.folder / name))
        root = self.resolver.root
        if root and not os.path.samefile(root, os.curdir):
            kind = f"path in wav.scp is not relative to this folder but to {root}"
            self.report.warn(kind, str(self.folder / "wav.scp"))
        return self.report

    def _mismatch(self, kind: str, where: str, *files: str) -> None:
        if kind in self.mismatches:
            self.mismatches[kind][0].count += 1
        else:
            self.mismatches[kind] = (Finding(1, where), set(files))

    def _read(self, name: str, may_be_empty: bool = False) -> Iterator[tuple[str, str]]:
        path = self.folder / name
        try:
            yield from iter_scp(path, may_be_empty)
        except DataError as error:
            self.broken.add(name)
            self.report.error(str(error).removeprefix(f"{path}: "), str(path))

    def _utterances(self, name: str) -> Iterator[tuple[str, str, str | None]]:
        """Compare all lists by utterance; yield one list along with utt2num_samples."""
        tables = {"utt2spk": self._speakers(name), name: self._read(name)}
        for other in ("text", "utt2num_samples"):
            if (self.folder / other).exists():
                tables[other] = self._read(other, may_be_empty=other == "text")
        speaker, speakers, sorted_by_speaker = "", 0, True
        rows = tqdm(merge(tables), "lists", unit="utt", leave=False, disable=None)
        for utt_id, row in rows:
            if len(row) < len(tables):
                self._report_missing(utt_id, row, tables)
            if (own := row.get("utt2spk")) is not None:
                self.report.utterances += 1
                if own < speaker and sorted_by_speaker:
                    sorted_by_speaker = False
                    self.report.error(
                        "utt2spk is not sorted by speaker, as Kaldi requires; begin "
                        "utterance ids with the speaker's name",
                        utt_id,
                    )
                speakers += own != speaker
                speaker = own
                if " " in own or "\t" in own:
                    kind = "utt2spk has more than `utterance speaker`; correct it"
                    self.report.error(kind, utt_id)
            if row.get("text") == "":
                self.report.warn("empty transcript in text", utt_id)
            if (samples := row.get("utt2num_samples")) and parse_samples(
                samples
            ) is None:
                self.report.error(
                    "utt2num_samples has no number; format the set again", utt_id
                )
            if name in row:
                yield utt_id, row[name], samples
        self.report.speakers = speakers if sorted_by_speaker else None

    def _speakers(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield utterances and speakers; without lists of them, each is its own."""
        if any((self.folder / x).exists() for x in ("utt2spk", "spk2utt")):
            yield from self._read("utt2spk")
            return
        kind = "no utt2spk, which pretraining does not need: each utterance is its own speaker"
        self.report.warn(kind, str(self.folder))
        with suppress(DataError):  # it is reported where the list itself is read
            yield from ((utt_id, utt_id) for utt_id, _ in iter_scp(self.folder / name))

    def _report_missing(self, utt_id: str, row: dict, tables: dict) -> None:
        for name in tables:
            if name in row and "utt2spk" not in row:
                kind = f"utterance of {name} is not in utt2spk; {FIX}"
            elif name not in row and "utt2spk" in row:
                kind = f"utterance of utt2spk is not in {name}; {FIX}"
            else:
                continue
            self._mismatch(kind, utt_id, name, "utt2spk")

    def _audio(self) -> Iterator[_Audio]:
        for utt_id, entry, number in self._utterances("wav.scp"):
            yield _Audio(utt_id, entry, parse_samples(number or ""))

    def _segmented_audio(self) -> Iterator[_Audio]:
        with ExternalSort() as by_recording:
            for utt_id, value, _ in self._utterances("segments"):
                if segment := self._parse_segment(utt_id, value):
                    recording, start, end = segment
                    by_recording.write(f"{recording}\t{start!r}\t{end!r}\t{utt_id}")
            yield from self._recordings(iter(by_recording))

    def _recordings(self, lines: Iterator[str]) -> Iterator[_Audio]:
        def next_segment():
            if line := next(lines, None):
                recording, start, end, utt_id = line.split("\t")
                return recording, (utt_id, float(start), float(end))
            return None

        def no_recording(utt_id: str) -> None:
            kind = f"segment's recording is not in wav.scp; {FIX}"
            self._mismatch(kind, utt_id, "segments", "wav.scp")

        head = next_segment()
        for recording, entry in self._read("wav.scp"):
            while head and head[0] < recording:
                no_recording(head[1][0])
                head = next_segment()
            segments = []
            while head and head[0] == recording:
                segments.append(head[1])
                head = next_segment()
            if not segments:
                kind = f"recording of wav.scp has no segment; {FIX}"
                self._mismatch(kind, recording, "segments", "wav.scp")
            yield _Audio(recording, entry, segments=tuple(segments))
        while head:
            no_recording(head[1][0])
            head = next_segment()

    def _parse_segment(
        self, utt_id: str, value: str
    ) -> tuple[str, float, float] | None:
        try:
            recording, first, last = value.split()
            start, end = float(first), float(last)
        except ValueError:
            kind = "segment is not `recording start end`; correct segments"
            self.report.error(kind, utt_id)
            return None
        # An end of -1 means the end of the recording. NaN fails these comparisons.
        if not (0 <= start < math.inf and (start < end < math.inf or end == -1)):
            kind = "segment starts before 0 or ends before it starts; correct segments"
            self.report.error(kind, utt_id)
        elif end != -1:
            self.report.length(end - start, utt_id)
        return recording, start, end

    def _open(self, audio: Iterator[_Audio], fs: int | None, nj: int) -> None:
        asked: deque[tuple[_Audio, str]] = deque()  # entries being probed

        def entries() -> Iterator[str]:
            for item in audio:
                try:
                    entry = self.resolver(item.entry)
                except DataError:
                    entry = item.entry  # probing it reports the error
                asked.append((item, entry))
                yield entry

        for info in iter_probe(entries(), fs, nj, fatal=(), look=self._look):
            item, entry = asked.popleft()
            if isinstance(info, DataError):
                # Messages without the file's name are equal and are counted together.
                kind = str(info).removeprefix(f"{entry}: ")
                kind = kind.removeprefix(f"{Path(entry)}: ")
                if isinstance(info, SampleRateError) and self.rate_remedy:
                    kind += f", {self.rate_remedy}"
                where = item.name if entry.endswith("|") else entry
                self.report.error(kind, where)
            else:
                self.report.opened += 1
                self.report.seconds += info.seconds
                self._compare_length(item, info)

    def _look(self, entry: str, fs: int | None) -> AudioInfo:
        look = probe_command if entry.endswith("|") else probe_entry
        return look(entry, fs, self.decode)

    def _compare_length(self, item: _Audio, info: AudioInfo) -> None:
        if item.segments is None:
            self.report.length(info.seconds, item.name)
        if item.samples is not None and item.samples != info.frames:
            kind = "utt2num_samples differs from the audio; format the set again"
            self.report.error(kind, item.name)
        limit = info.seconds + END_TOLERANCE
        for utt_id, start, end in item.segments or ():
            to_end = end == -1
            if start >= (info.seconds if to_end else limit) or end > limit:
                kind = "segment reaches beyond its recording; correct segments"
                self.report.error(kind, utt_id)
            elif to_end:
                self.report.length(info.seconds - start, utt_id)

    def _check_spaces(self) -> None:
        """Warn of whitespace in text for which stage 3 of fine-tuning would stop."""
        path = self.folder / "text"
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                if found := OTHER_SPACE.search(line.removesuffix("\r\n")):
                    self.report.warn(
                        f"text has U+{ord(found[0]):04X}, whitespace that stage 3 of "
                        "fine-tuning refuses; replace it by a space: perl -CSD -i -pe "
                        f"'s/[^\\S\\n]/ /g' {path}",
                        re.split("[ \t\n]", line, maxsplit=1)[0],
                    )

    def _compare_spk2utt(self) -> None:
        path = self.folder / "spk2utt"
        if self.broken & {"utt2spk"} or self.report.speakers is None:
            theirs = None
        else:
            theirs = self._read("utt2spk")
        first = None
        try:
            # Both are sorted by speaker, then by utterance, so the pairs must match.
            for pair in iter_spk2utt(path):
                if theirs and not first and (other := next(theirs, None)) != pair:
                    first = other[0] if other else pair[0]
        except DataError as error:
            self.report.error(str(error).removeprefix(f"{path}: "), str(path))
            return
        if theirs and not first and (other := next(theirs, None)):
            first = other[0]
        if first:
            kind = f"spk2utt and utt2spk differ from here on; {FIX}"
            self.report.error(kind, first)


def _count(found: dict[str, Finding], kind: str, where: str) -> None:
    if kind in found:
        found[kind].count += 1
    else:
        found[kind] = Finding(1, where)
