"""Random subsets of a data directory, balanced over speakers, and the remainder."""

import heapq
import math
import os
import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from espnet2_birq.datadir.adopt import SOURCE, is_formatted
from espnet2_birq.datadir.audio import probe_many
from espnet2_birq.datadir.kaldi import (
    format_scp,
    read_scp,
    read_segment,
    replace_data_dir,
    voice_of,
)
from espnet2_birq.datadir.paths import PathResolver
from espnet2_birq.datadir.stamp import STAMP
from espnet2_birq.datadir.summary import summary_lines
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_text

MOST_NAMED = 3  # files left out that are named one by one
# Files that are not tables of sorted keys, written by formatting and our preparations.
NO_TABLES = ("feats_type", "audio_format", "skipped", "glm")
# Files that describe the whole directory, so a subset must not have them.
OF_THE_WHOLE = {SOURCE, "manifest.jsonl", "statistics.tsv", "stm"} | {
    "unused_words",
    "words.tsv",
    "missing_recordings",
}


@dataclass(frozen=True)
class DataDir:
    """Data directory in memory.

    Attributes:
        folder: Path of the directory.
        files: Mapping from file name to content: a mapping from key to value for tables
            of utterances, recordings or speakers, a string for other files.
        seconds: Mapping from utterance to duration in seconds.
        people: Mapping from utterance to the person who speaks.
        genders: Mapping from person to "f" or "m"; empty if any is unknown.
    """

    folder: Path
    files: dict[str, dict[str, str] | str]
    seconds: dict[str, float]
    people: dict[str, str]
    genders: dict[str, str]

    def table(self, name: str) -> dict[str, str]:
        """Return a table by file name; an empty one if it is missing or not a table."""
        content = self.files.get(name, {})
        return content if isinstance(content, dict) else {}

    def count(self, utterances: Collection[str]) -> tuple[int, float, float | None]:
        """Count people and seconds, and women's share of the seconds (None: unknown)."""
        total = sum(self.seconds[u] for u in utterances)
        share = None
        if self.genders and total:
            women = [u for u in utterances if self.genders[self.people[u]] == "f"]
            share = sum(self.seconds[u] for u in women) / total
        return len({self.people[u] for u in utterances}), total, share


def subset_data_dir(
    source: Path,
    dest: Path,
    hours: float,
    rest: Path | None = None,
    seed: int = 0,
    fs: int = 16000,
    nj: int = 4,
) -> None:
    """Write a random subset of a data directory, and print its size.

    Args:
        source: Kaldi data directory, or a set formatted by ESPnet.
        dest: Directory to write, complete or not at all.
        hours: Amount of speech to draw, in hours.
        rest: Directory for the remaining utterances; None does not write them.
        seed: Random seed.
        fs: Sample rate of a formatted set in Hz.
        nj: Number of threads that open audio files.

    Raises:
        DataError: The source cannot be used, or a directory cannot be written.
    """
    folders = [path for path in (source, dest, rest) if path is not None]
    if len({os.path.realpath(path) for path in folders}) < len(folders):
        raise DataError(f"{dest}: SRC, DEST and --rest must be different directories")
    data = read_data_dir(source, fs, nj)
    drawn = choose(data, hours, seed)
    sets = [(dest, drawn)]
    if rest is not None:
        left = sorted(data.seconds.keys() - set(drawn))
        if not left:
            raise DataError(f"{rest}: nothing is left for it of {source}")
        sets.append((rest, left))
    for folder, utterances in sets:
        replace_data_dir(folder, subset_files(data, utterances))
        print("\n".join(_summary(folder, data, utterances)))


def read_data_dir(folder: str | Path, fs: int, nj: int = 4) -> DataDir:
    """Read a Kaldi data directory, or a set formatted by ESPnet.

    Durations are taken from utt2num_samples for a formatted set, otherwise from utt2dur,
    segments or the headers of audio files, in this order of preference.

    Args:
        folder: Directory with wav.scp, utt2spk and optional further files.
        fs: Sample rate of a formatted set in Hz.
        nj: Number of threads that open audio files.

    Returns:
        Contents of the directory; relative paths in wav.scp are made absolute.

    Raises:
        DataError: A file is missing or broken, or files are inconsistent.
    """
    folder = Path(folder)
    speakers = read_scp(folder / "utt2spk")
    recordings = read_scp(folder / "wav.scp")
    per_utterance = recordings
    if segmented := (folder / "segments").exists():
        per_utterance = read_scp(folder / "segments")
    if odd := min(per_utterance.keys() ^ speakers.keys(), default=None):
        raise DataError(
            f"{folder}: {odd} is in only one of utt2spk and "
            f"{'segments' if segmented else 'wav.scp'}; run utils/fix_data_dir.sh"
        )
    files: dict[str, dict[str, str] | str] = {}
    others = []
    for path in sorted(folder.iterdir()):
        # Stamps are of the set or of one of its files: manifest.jsonl.made_from.json.
        of_the_whole = path.name.endswith(STAMP) or path.name in OF_THE_WHOLE
        if path.is_file() and path.name[0] != "." and not of_the_whole:
            try:
                files[path.name] = _read_file(path, speakers, recordings)
            except DataError as error:
                if _is_kaldis(path.name):
                    raise
                others.append(f"{path}: left out, it is no list of the set ({error})")
    # There may be thousands, if the audio is in the same folder.
    print("".join(f"{line}\n" for line in others[:MOST_NAMED]), end="")
    if len(others) > MOST_NAMED:
        print(f"{folder}: {len(others) - MOST_NAMED} more files left out as well")
    seconds = _durations(folder, files, speakers, fs, nj)
    resolve = PathResolver(folder)
    # ESPnet writes "None" for audio that it could not convert; it has 0 samples.
    files["wav.scp"] = {
        key: entry if seconds.get(key) == 0 else resolve(entry)
        for key, entry in recordings.items()
    }
    genders = files.get("spk2gender")
    genders = genders if isinstance(genders, dict) else {}
    known = genders.keys() >= set(speakers.values())
    return DataDir(
        folder=folder,
        files=files,
        seconds=seconds,
        people={utt_id: voice_of(speaker) for utt_id, speaker in speakers.items()},
        genders={voice_of(s): g for s, g in genders.items()} if known else {},
    )


def choose(data: DataDir, hours: float, seed: int = 0) -> list[str]:
    """Choose utterances at random, balanced by gender, then by speaker.

    Repeatedly take an utterance from the least-represented speaker of the
    least-represented gender, while it brings the total closer to the target. The total is
    thus within half an utterance of the target, and with the same seed a smaller subset
    is part of a larger one. Exhausted speakers are skipped.

    Args:
        data: Data directory to choose from.
        hours: Amount of speech in hours.
        seed: Random seed.

    Returns:
        Utterances, sorted.

    Raises:
        DataError: `data` has less speech, or the first utterance is more than twice as
            long as the target.
    """
    wanted, there = hours * 3600, sum(data.seconds.values())
    if not 0 < wanted <= there:
        raise DataError(
            f"{data.folder}: {hours:g} hours were asked for, there are "
            f"{there / 3600:.2f}"
        )
    generator = random.Random(seed)
    stock = defaultdict(list)
    for utt_id in sorted(data.seconds):
        if data.seconds[utt_id] > 0:
            stock[data.people[utt_id]].append(utt_id)
    # Heaps of (seconds so far, random rank of the person, person)
    queues: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    people = sorted(stock)
    generator.shuffle(people)
    for place, person in enumerate(people):
        generator.shuffle(stock[person])
        queues[data.genders.get(person, "")].append((0.0, place, person))
    taken = dict.fromkeys(sorted(queues), 0.0)
    total, chosen = 0.0, []
    while taken:
        gender = min(taken, key=taken.__getitem__)
        so_far, place, person = heapq.heappop(queues[gender])
        utt_id = stock[person].pop()
        length = data.seconds[utt_id]
        if total + length - wanted > wanted - total:
            break
        chosen.append(utt_id)
        total += length
        taken[gender] += length
        if stock[person]:
            heapq.heappush(queues[gender], (so_far + length, place, person))
        if not queues[gender]:
            del taken[gender]
    if not chosen:
        raise DataError(
            f"{data.folder}: {hours:g} hours are less than half of its utterance "
            f"{utt_id}; ask for more"
        )
    return sorted(chosen)


def subset_files(data: DataDir, utterances: Collection[str]) -> dict[str, str]:
    """Make the files of a data directory with some of the utterances.

    Args:
        data: Data directory with the utterances.
        utterances: Utterances to keep.

    Returns:
        Mapping from file name to content: tables with the lines of these utterances,
        their recordings and their speakers; other files unchanged.
    """
    kept = set(utterances)
    speakers = {u: s for u, s in data.table("utt2spk").items() if u in kept}
    recordings = kept
    if segments := data.table("segments"):
        recordings = {segments[u].split()[0] for u in speakers}
    kept = kept | recordings | set(speakers.values())
    of_speaker = defaultdict(list)
    for utt_id in sorted(speakers):
        of_speaker[speakers[utt_id]].append(utt_id)
    files = {}
    for name, content in data.files.items():
        if isinstance(content, dict):
            if _is_of_groups(name):
                content = _of_groups(content, speakers)
            else:
                by_name = recordings if name == "wav.scp" else kept
                wanted = speakers if _is_of_utterances(name) else by_name
                content = {k: v for k, v in content.items() if k in wanted}
            content = format_scp(content.items())
        files[name] = content
    files["spk2utt"] = format_scp(
        (speaker, " ".join(of_speaker[speaker])) for speaker in sorted(of_speaker)
    )
    return files


def _of_groups(table: dict[str, str], utterances: Collection[str]) -> dict[str, str]:
    """Keep some utterances of a table of groups, and the groups that have any."""
    kept = {
        group: " ".join(u for u in members.split() if u in utterances)
        for group, members in table.items()
    }
    return {group: members for group, members in kept.items() if members}


def _summary(dest: Path, data: DataDir, utterances: Collection[str]) -> list[str]:
    people, seconds, women = data.count(utterances)
    share = "genders unknown" if women is None else f"{100 * women:.1f} % of women"
    return summary_lines(
        dest, len(utterances), f"{people} speakers, {share}", seconds, {}
    )


def _read_file(
    path: Path, speakers: Mapping[str, str], recordings: Collection[str]
) -> dict[str, str] | str:
    if path.name in NO_TABLES:
        return read_text(path)
    table = read_scp(path, allow_empty_values=True)
    keys: Set[str] = table.keys()
    if _is_of_groups(path.name):
        keys = {u for members in table.values() for u in members.split()}
    owners: list[Set[str]] = [speakers.keys()]
    if not (_is_of_utterances(path.name) or _is_of_groups(path.name)):
        owners += [set(recordings), set(speakers.values())]
    if any(keys <= owner for owner in owners):
        return table
    if len(owners) > 1 and not any(keys & owner for owner in owners):
        return read_text(path)
    unknown = min(keys - set().union(*owners), default=min(keys))
    raise DataError(
        f"{path}: {unknown} is not in utt2spk or wav.scp; run utils/fix_data_dir.sh"
    )


def _is_kaldis(name: str) -> bool:
    """Whether Kaldi or ESPnet define the file, so that a subset must have it."""
    lists = ("wav.scp", "feats.scp", "cmvn.scp", "vad.scp", "reco2file_and_channel")
    return (
        name in (*lists, *NO_TABLES)
        or name.startswith("spk2")
        or _is_of_utterances(name)
        or _is_of_groups(name)
    )


def _is_of_utterances(name: str) -> bool:
    """Decide by the file name, since speakers or recordings may be named as utterances."""
    return name == "segments" or name.startswith(("utt2", "text"))


def _is_of_groups(name: str) -> bool:
    """Whether a file lists utterances by group, as category2utt; spk2utt is made anew."""
    return name.endswith("2utt") and name != "spk2utt"


def _durations(
    folder: Path, files: Mapping, speakers: Mapping[str, str], fs: int, nj: int
) -> dict[str, float]:
    """Return a mapping from utterance to seconds."""
    if is_formatted(folder):
        samples = files.get("utt2num_samples") or read_scp(folder / "utt2num_samples")
        seconds = {u: _number(folder, u, n) / fs for u, n in samples.items()}
    elif "utt2dur" in files:
        seconds = {u: _number(folder, u, n) for u, n in files["utt2dur"].items()}
    elif "segments" in files:
        seconds = _segment_durations(folder, files, nj)
    else:
        seconds = _audio_durations(folder, files["wav.scp"], nj)
    if missing := min(speakers.keys() - seconds.keys(), default=None):
        raise DataError(
            f"{folder}: the duration of {missing} is not known; make "
            "utt2num_samples or utt2dur again"
        )
    return seconds


def _segment_durations(folder: Path, files: Mapping, nj: int) -> dict[str, float]:
    spans = {}
    for utt_id, value in files["segments"].items():
        spans[utt_id] = read_segment(folder / "segments", utt_id, value)
    # An end of -1 means the end of the recording.
    open_ended = {part.recording for part in spans.values() if part.end == -1}
    whole = {r: e for r, e in files["wav.scp"].items() if r in open_ended}
    lengths = _audio_durations(folder, whole, nj)
    seconds = {}
    for utt_id, part in spans.items():
        end = lengths.get(part.recording, -1) if part.end == -1 else part.end
        if not part.start < end:
            raise DataError(
                f"{folder}/segments: {utt_id} does not end after it starts; correct it"
            )
        seconds[utt_id] = end - part.start
    return seconds


def _audio_durations(
    folder: Path, entries: Mapping[str, str], nj: int
) -> dict[str, float]:
    resolve = PathResolver(folder)
    resolved = []
    for name, entry in entries.items():
        if entry.endswith("|"):
            raise DataError(
                f"{folder}/wav.scp: {name} is a command, and there is no utt2dur; run "
                "utils/data/get_utt2dur.sh"
            )
        resolved.append(resolve(entry))
    infos = probe_many(resolved, nj=nj)
    return {name: info.seconds for name, info in zip(entries, infos)}


def _number(folder: Path, utt_id: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise DataError(
            f"{folder}: {utt_id} has the time or duration {value!r}, which is not a number "
            "of 0 or more; correct the line"
        )
    return number
