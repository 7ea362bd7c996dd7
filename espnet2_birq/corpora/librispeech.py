"""Preparation of LibriSpeech and of mini LibriSpeech (OpenSLR 31).

The folder LibriSpeech/<part>/<reader>/<chapter>/ holds the audio files
<reader>-<chapter>-<number>.flac and one file <reader>-<chapter>.trans.txt with all
transcripts of the chapter.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from espnet2_birq.corpora.librispeech_parts import (
    JOINT_SETS,
    absent_lines,
    check_needed,
    check_whole,
    find_parts,
    numbered,
    official_size,
    partial_lines,
    refuse_leftovers,
    set_name,
)
from espnet2_birq.datadir.audio import AudioInfo, probe_apart
from espnet2_birq.datadir.kaldi import Utterance, check_utterances, write_data_dir
from espnet2_birq.datadir.summary import summary_lines
from espnet2_birq.errors import DataError, LfsPointerError
from espnet2_birq.reading import read_lines


@dataclass
class SpeechSet:
    """Contents of one data directory.

    Attributes:
        utterances: Utterances to write.
        skipped: Mapping from each omitted utterance's id to the reason.
    """

    utterances: list[Utterance] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def prepare_librispeech(
    folder: str | Path,
    dest: Path,
    parts: Sequence[str] | None = None,
    splits: Iterable[tuple[str, int]] = (),
    combinations: Iterable[tuple[str, Sequence[str]]] = (),
    *,
    need: Sequence[str] = (),
    fs: int | None = 16000,
    skip_bad: bool = False,
    nj: int = 4,
    dry_run: bool = False,
) -> None:
    """Write the parts' data directories, and print the size of each.

    Args:
        folder: The folder LibriSpeech/, or its parent.
        dest: Parent folder of the data directories.
        parts: Names of parts to use; None uses all in the folder.
        splits: Pairs of a part and the number of its readers to hold out, as in
            make_sets().
        combinations: Pairs of a new set's name and the names of the sets to combine.
        need: Names of sets that must be made, or be the user's own in `dest`.
        fs: Required sample rate in Hz; None accepts any.
        skip_bad: Whether to accept bad audio, which is skipped, and partial sets of
            `need`.
        nj: Number of threads that open audio.
        dry_run: Whether to check and report only, without writing.

    Raises:
        DataError: The corpus or the request is wrong; nothing has been written. Or a
            set cannot be written.
    """
    corpus = find_corpus(folder)
    sets = make_sets(
        corpus,
        parts or find_parts(corpus),
        _unique("--split", splits),
        _unique("--combine", combinations),
    )
    sizes = {name: len(one.utterances) for name, one in sets.items()}
    check_needed(need, corpus, dest, sizes)
    if not skip_bad:
        check_whole(need, corpus, sizes)
    if not parts:
        refuse_leftovers(dest, sets)
    sets, infos = probe_sets(sets, fs, nj, skip_bad)
    for name, one in sets.items():
        check_utterances(dest / name, one.utterances)
    genders = read_genders(corpus)
    if not genders:
        print(f"{corpus}/SPEAKERS.TXT is missing: no spk2gender is written")
    for name, one in sets.items():
        if not dry_run:
            write_set(dest / name, one, genders)
        print("\n".join(_summary(dest / name, one, infos, genders)))
    lines = partial_lines(corpus, sizes)
    if not parts:
        lines += absent_lines(corpus, dest, sets)
    for line in lines:
        print(line)
    if dry_run:
        print("dry run: nothing was written")


def find_corpus(folder: str | Path) -> Path:
    """Find the folder that holds the parts.

    Args:
        folder: The folder LibriSpeech/, or its parent.

    Returns:
        Absolute path of the folder LibriSpeech/, symbolic links not resolved.

    Raises:
        DataError: Neither folder holds a part.
    """
    # Not resolve(): users may give a link to avoid a path with spaces.
    folder = Path(os.path.abspath(folder))
    for corpus in (folder / "LibriSpeech", folder):
        if corpus.is_dir() and find_parts(corpus):
            return corpus
    raise DataError(
        f"{folder}: no part of LibriSpeech in it or in its LibriSpeech/; give the "
        "folder where the corpus' tar files were unpacked"
    )


def reader_of(utt_id: str) -> str:
    """Extract the reader's number from an utterance id or a speaker name."""
    return utt_id.split("-", 1)[0]


def scan_part(corpus: Path, part: str) -> SpeechSet:
    """Pair a part's audio with its transcripts, without opening any audio.

    Args:
        corpus: The folder LibriSpeech/.
        part: Name of the part.

    Returns:
        The set. Its `skipped` has audio without transcript and transcripts without
        audio.

    Raises:
        DataError: There is no such part, or a file belongs to another chapter.
    """
    if part not in (there := find_parts(corpus)):
        raise DataError(f"{corpus}: no part {part} there, only {', '.join(there)}")
    found = SpeechSet()
    readers = numbered(corpus / part)
    for reader in tqdm(readers, part, unit="reader", leave=False, disable=None):
        for chapter in numbered(reader):
            _scan_chapter(chapter, f"{reader.name}-{chapter.name}", found)
    return found


def split_readers(
    whole: SpeechSet, number: int
) -> tuple[SpeechSet, SpeechSet, SpeechSet]:
    """Hold out the readers of a set that have the highest numbers.

    Args:
        whole: Set to split.
        number: Number of readers to hold out, half for validation, half for test.

    Returns:
        Sets for training, validation and test.

    Raises:
        DataError: `number` is odd, not positive or leaves no reader for training.
    """
    # Readers without usable audio count too, so that a bad file changes no other
    # reader's set.
    utt_ids = [*(u.utt_id for u in whole.utterances), *whole.skipped]
    readers = sorted({reader_of(utt_id) for utt_id in utt_ids}, key=int)
    if number <= 0 or number % 2 or number >= len(readers):
        raise DataError(
            f"--split: cannot hold out {number} of {len(readers)} readers; "
            "give an even number that is at least 2 and leaves a reader for training"
        )
    first_test = len(readers) - number // 2
    first_valid = len(readers) - number
    return (
        _of_readers(whole, readers[:first_valid]),
        _of_readers(whole, readers[first_valid:first_test]),
        _of_readers(whole, readers[first_test:]),
    )


def combine_sets(sets: Iterable[SpeechSet]) -> SpeechSet:
    """Combine sets into a new one."""
    joined = SpeechSet()
    for one in sets:
        joined.utterances.extend(one.utterances)
        joined.skipped.update(one.skipped)
    return joined


def make_sets(
    corpus: Path,
    parts: Sequence[str],
    splits: Mapping[str, int],
    combinations: Mapping[str, Sequence[str]],
) -> dict[str, SpeechSet]:
    """Make all requested sets, without opening any audio.

    ESPnet's sets train_960 and dev are added if all their members are made.

    Args:
        corpus: The folder LibriSpeech/.
        parts: Names of parts to use.
        splits: Mapping from part to the number of readers to hold out. The part's set
            is replaced by <set>_train, <set>_valid and <set>_test.
        combinations: Mapping from a new set's name to the names of the sets to combine.

    Returns:
        Mapping from name to set.

    Raises:
        DataError: A named part or set does not exist, or a name is taken.
    """
    if unused := sorted(set(splits) - set(parts)):
        raise DataError(
            f"--split {unused[0]}: not among the parts, which are {', '.join(parts)}"
        )
    sets: dict[str, SpeechSet] = {}
    for part in parts:
        whole, name = scan_part(corpus, part), set_name(part)
        if part in splits:
            names = (f"{name}_train", f"{name}_valid", f"{name}_test")
            sets.update(zip(names, split_readers(whole, splits[part])))
        else:
            sets[name] = whole
    for name, members in JOINT_SETS.items():
        if name not in combinations and all(member in sets for member in members):
            sets[name] = combine_sets(sets[member] for member in members)
    for name, members in combinations.items():
        if name in sets:
            raise DataError(f"--combine {name}: there is a set of this name; rename it")
        if missing := [member for member in members if member not in sets]:
            raise DataError(
                f"--combine {name}: no set {missing[0]}, only {', '.join(sets)}"
            )
        sets[name] = combine_sets(sets[member] for member in members)
    return sets


def probe_sets(
    sets: Mapping[str, SpeechSet], fs: int | None, nj: int, skip_bad: bool
) -> tuple[dict[str, SpeechSet], dict[str, AudioInfo]]:
    """Open the audio of all sets, each file once, and remove utterances with bad audio.

    Args:
        sets: Mapping from name to set.
        fs: Required sample rate in Hz; None accepts any.
        nj: Number of threads.
        skip_bad: Whether to move utterances with bad audio to `skipped` instead of
            raising an error.

    Returns:
        Sets without bad audio, and a mapping from path to header.

    Raises:
        DataError: An audio file is bad and `skip_bad` is false.
        LfsPointerError: An audio file is a git-LFS pointer. The whole clone then lacks
            its audio, so it is not skipped.
    """
    # Keys are paths: mini LibriSpeech shares utterance ids with the whole corpus.
    paths = (u.path for one in sets.values() for u in one.utterances)
    fatal = (LfsPointerError,) if skip_bad else (DataError,)
    infos, bad = probe_apart(paths, fs, nj, fatal)
    # Reasons without the file's name are equal for all such files and can be counted.
    reasons = {path: why.removeprefix(f"{path}: ") for path, why in bad.items()}
    good = {
        name: SpeechSet(
            [u for u in one.utterances if u.path in infos],
            one.skipped
            | {u.utt_id: reasons[u.path] for u in one.utterances if u.path in reasons},
        )
        for name, one in sets.items()
    }
    return good, infos


def read_genders(corpus: Path) -> dict[str, str]:
    """Read SPEAKERS.TXT.

    Args:
        corpus: The folder LibriSpeech/.

    Returns:
        Mapping from a reader's number to "f" or "m"; empty without the file. Readers
        with any other value are omitted.
    """
    path = corpus / "SPEAKERS.TXT"
    if not path.is_file():
        return {}
    genders = {}
    # Readers' names may contain "|", so only the first two columns are used.
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip() and not line.startswith(";"):
            reader, gender = [*line.split("|"), ""][:2]
            if gender.strip() in ("F", "M"):
                genders[reader.strip()] = gender.strip().lower()
    return genders


def write_set(dest: Path, one: SpeechSet, genders: Mapping[str, str]) -> None:
    """Write a set as a Kaldi data directory.

    In addition to Kaldi's files, write `skipped` (utterance id, tab, reason) if any
    utterance was skipped, and spk2gender if the gender of every reader is known.

    Args:
        dest: Directory to write.
        one: The set.
        genders: Mapping from a reader's number to "f" or "m".

    Raises:
        DataError: The set cannot be written.
    """
    extra = {}
    if one.skipped:
        extra["skipped"] = "".join(
            f"{u}\t{r}\n" for u, r in sorted(one.skipped.items())
        )
    speakers = sorted({u.speaker for u in one.utterances})
    if all(reader_of(speaker) in genders for speaker in speakers):
        extra["spk2gender"] = "".join(
            f"{s} {genders[reader_of(s)]}\n" for s in speakers
        )
    write_data_dir(dest, one.utterances, extra)


def _scan_chapter(chapter: Path, speaker: str, found: SpeechSet) -> None:
    audio = {path.stem: path for path in chapter.glob("*.flac")}
    texts = _read_transcripts(chapter / f"{speaker}.trans.txt")
    for utt_id in sorted(audio.keys() | texts.keys()):
        if not utt_id.startswith(f"{speaker}-"):
            raise DataError(
                f"{audio.get(utt_id, chapter)}: utterance {utt_id} is not of chapter "
                f"{speaker}; restore the folder from the corpus' tar file"
            )
        if utt_id not in audio:
            found.skipped[utt_id] = "in the chapter's trans.txt, but no .flac file"
        elif not texts.get(utt_id):
            found.skipped[utt_id] = "no transcript in the chapter's trans.txt"
        else:
            path = str(audio[utt_id])
            found.utterances.append(Utterance(utt_id, speaker, path, texts[utt_id]))


def _read_transcripts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    texts: dict[str, str] = {}
    for line in read_lines(path, "restore it from the corpus' tar file"):
        utt_id, _, text = line.strip().partition(" ")
        if utt_id and texts.setdefault(utt_id, text.strip()) != text.strip():
            raise DataError(
                f"{path}: has two texts of {utt_id}; restore it from the corpus' tar file"
            )
    return texts


def _of_readers(whole: SpeechSet, readers: Iterable[str]) -> SpeechSet:
    wanted = set(readers)
    return SpeechSet(
        [u for u in whole.utterances if reader_of(u.utt_id) in wanted],
        {u: why for u, why in whole.skipped.items() if reader_of(u) in wanted},
    )


def _unique[Value](option: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key, value in pairs:
        if key in values:
            raise DataError(f"{option} {key}: given twice; give it once")
        values[key] = value
    return values


def _summary(
    dest: Path,
    one: SpeechSet,
    infos: Mapping[str, AudioInfo],
    genders: Mapping[str, str],
) -> list[str]:
    speakers = {u.speaker for u in one.utterances}
    readers = {reader_of(speaker) for speaker in speakers}
    skipped = defaultdict(list)
    for utt_id, reason in one.skipped.items():
        skipped[reason].append(utt_id)
    lines = summary_lines(
        dest,
        len(one.utterances),
        f"{len(speakers)} speakers ({len(readers)} readers)",
        sum(infos[u.path].seconds for u in one.utterances),
        skipped,
    )
    found, size = len(one.utterances), official_size(dest.name)
    if size and found != size:
        what = "partial" if found < size else "too many"
        lines.append(f"{dest}: {what}: {found} of the {size} utterances of the corpus")
    if genders and (unknown := sorted(readers - genders.keys(), key=int)):
        lines.append(
            f"{dest}: no spk2gender: SPEAKERS.TXT has no gender of {len(unknown)} "
            f"readers; first: {unknown[0]}"
        )
    return lines
