"""Check Kaldi data directories before hours of training depend on them."""

import random
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from espnet2_birq.data.audio import AudioInfo, probe_many
from espnet2_birq.data.kaldi import read_scp
from espnet2_birq.errors import DataError

SAMPLE_SIZE = 200
# A segment's end is often rounded to 10 ms; that much beyond the audio is no error.
END_TOLERANCE = 0.01  # seconds
# "file.ark:123", which Kaldi and ESPnet read at a byte offset.
ARK_ENTRY = re.compile(r"^(.+):\d+(\[.*\])?$")


@dataclass
class Report:
    """What is found in one data directory.

    Attributes:
        problems: Kind of error, with its remedy, to what is affected.
        warnings: The same for what need not be wrong.
        utterances: Number of utterances.
        speakers: Number of speakers.
        opened: Number of audio files that were opened and are whole.
        seconds: Total duration of these files in seconds.
    """

    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    utterances: int = 0
    speakers: int = 0
    opened: int = 0
    seconds: float = 0.0


def check_data_dir(
    folder: str | Path,
    fs: int | None = None,
    full: bool = False,
    nj: int = 4,
    seed: int = 0,
) -> Report:
    """Check a data directory: its lists, that they agree, and its audio.

    Args:
        folder: Directory with wav.scp and utt2spk, and maybe segments, text, spk2utt.
        fs: The wanted sample rate in Hz; None accepts any.
        full: Open all audio rather than a random sample of 200 files.
        nj: Number of threads.
        seed: Seed of the random sample.

    Returns:
        What is found. The problems are collected, none is raised.
    """
    folder, report = Path(folder), Report()
    wavs = _read(folder / "wav.scp", report)
    utt2spk = _read(folder / "utt2spk", report)
    if wavs is None or utt2spk is None:
        return report
    report.utterances, report.speakers = len(utt2spk), len(set(utt2spk.values()))

    segments = None
    if (folder / "segments").exists():
        segments = _parse_segments(folder / "segments", wavs, report)
        _compare("segments", segments, "utt2spk", utt2spk, report)
    else:
        _compare("wav.scp", wavs, "utt2spk", utt2spk, report)
    if (folder / "text").exists():
        text = _read(folder / "text", report, allow_empty_values=True)
        if text is not None:
            _compare("text", text, "utt2spk", utt2spk, report)
            if empty := [utt_id for utt_id, words in text.items() if not words]:
                report.warnings["empty transcript in text"] = empty
    if (folder / "spk2utt").exists():
        _check_spk2utt(folder / "spk2utt", utt2spk, report)

    infos = _check_audio(wavs, fs, full, nj, seed, report)
    _check_segment_ends(segments or {}, infos, report)
    return report


def _read(
    path: Path, report: Report, allow_empty_values: bool = False
) -> dict[str, str] | None:
    try:
        return read_scp(path, allow_empty_values)
    except DataError as error:
        report.problems[str(error).removeprefix(f"{path}: ")].append(str(path))
        return None


def _compare(
    name: str, ids: Collection[str], other: str, others: Collection[str], report: Report
) -> None:
    for here, there, missing in (
        (name, other, set(ids) - set(others)),
        (other, name, set(others) - set(ids)),
    ):
        if missing:
            kind = f"utterance of {here} is not in {there}; run utils/fix_data_dir.sh"
            report.problems[kind] = sorted(missing)


def _check_spk2utt(path: Path, utt2spk: Mapping[str, str], report: Report) -> None:
    spk2utt = _read(path, report)
    if spk2utt is None:
        return
    pairs = {(utt, spk) for spk, utts in spk2utt.items() for utt in utts.split()}
    if differing := sorted(pairs ^ set(utt2spk.items())):
        kind = "speaker differs between spk2utt and utt2spk; run utils/fix_data_dir.sh"
        report.problems[kind] = sorted({utt_id for utt_id, _ in differing})


def _parse_segments(
    path: Path, wavs: Mapping[str, str], report: Report
) -> dict[str, tuple[str, float, float]]:
    segments = {}
    for utt_id, value in (_read(path, report) or {}).items():
        try:
            recording, start, end = value.split()
            segments[utt_id] = (recording, float(start), float(end))
        except ValueError:
            kind = "segment is not `recording start end`; correct segments"
            report.problems[kind].append(utt_id)
            continue
        if recording not in wavs:
            kind = "segment's recording is not in wav.scp; run utils/fix_data_dir.sh"
            report.problems[kind].append(utt_id)
        # An end of -1 means the end of the recording.
        if float(start) < 0 or not (float(end) > float(start) or float(end) == -1):
            kind = "segment starts before 0 or ends before it starts; correct segments"
            report.problems[kind].append(utt_id)
    return segments


def _check_audio(
    wavs: Mapping[str, str],
    fs: int | None,
    full: bool,
    nj: int,
    seed: int,
    report: Report,
) -> dict[str, AudioInfo]:
    names = sorted(wavs)
    if not full and len(names) > SAMPLE_SIZE:
        names = random.Random(seed).sample(names, SAMPLE_SIZE)
    files = {}
    for name in names:
        entry = wavs[name]
        if entry.endswith("|"):
            report.warnings["audio is a pipe: not opened"].append(name)
        elif match := ARK_ENTRY.match(entry):
            report.warnings["audio is in an ark: not opened"].append(name)
            if not Path(match[1]).is_file():
                kind = "no such ark file; correct wav.scp or write it again"
                report.problems[kind].append(match[1])
        else:
            files[name] = entry

    infos = {}
    for name, result in zip(files, probe_many(list(files.values()), fs, nj, fatal=())):
        if isinstance(result, DataError):
            # Without the file's name the message is that of all such files.
            kind = str(result).removeprefix(f"{Path(files[name])}: ")
            report.problems[kind].append(files[name])
        else:
            infos[name] = result
    report.opened = len(infos)
    report.seconds = sum(info.seconds for info in infos.values())
    return infos


def _check_segment_ends(
    segments: Mapping[str, tuple[str, float, float]],
    infos: Mapping[str, AudioInfo],
    report: Report,
) -> None:
    for utt_id, (recording, start, end) in segments.items():
        if recording in infos:
            limit = infos[recording].seconds + END_TOLERANCE
            if start >= limit or end > limit:
                kind = "segment reaches beyond its recording; correct segments"
                report.problems[kind].append(utt_id)
