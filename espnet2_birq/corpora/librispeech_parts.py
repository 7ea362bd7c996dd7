"""Parts of LibriSpeech, its sets, and whether they are complete."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from espnet2_birq.errors import DataError

# Parts of the whole corpus (OpenSLR 12), with their numbers of utterances.
UTTERANCES_OF_PART = {
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
}
UTTERANCES_OF_MINI = {"train-clean-5": 1519, "dev-clean-2": 1089}  # OpenSLR 31
# ESPnet's names of sets that combine others.
JOINT_SETS: dict[str, Sequence[str]] = {
    "train_960": ("train_clean_100", "train_clean_360", "train_other_500"),
    "dev": ("dev_clean", "dev_other"),
}


def find_parts(corpus: Path) -> list[str]:
    """List the parts (dev-clean, ...): folders that hold readers' folders.

    Args:
        corpus: The folder LibriSpeech/.

    Returns:
        Names of the parts, sorted.
    """
    return sorted(
        part.name for part in corpus.iterdir() if part.is_dir() and numbered(part)
    )


def set_name(part: str) -> str:
    """Convert a part's name to its set's name: dev-clean to dev_clean."""
    return part.replace("-", "_")


def official_size(name: str) -> int | None:
    """Return the number of utterances of a set in the whole corpus; None if unknown."""
    sizes = {set_name(part): size for part, size in UTTERANCES_OF_PART.items()}
    if name in JOINT_SETS:
        return sum(sizes[member] for member in JOINT_SETS[name])
    return sizes.get(name)


def numbered(folder: Path) -> list[Path]:
    """List the folders in a folder whose names are numbers, in numerical order."""
    return sorted(
        (sub for sub in folder.iterdir() if sub.name.isdecimal() and sub.is_dir()),
        key=lambda sub: int(sub.name),
    )


def check_needed(
    need: Sequence[str], corpus: Path, dest: Path, sizes: Mapping[str, int]
) -> None:
    """Check that some sets are going to be made.

    Args:
        need: Names of sets.
        corpus: The folder LibriSpeech/.
        dest: Parent folder of the data directories.
        sizes: Mapping from the names of all sets to be made to their numbers of
            utterances.

    Raises:
        DataError: A set is not, nor is it the user's own in `dest`.
    """
    for name in need:
        # LibriSpeech's sets in `dest` may be of an earlier preparation, of another corpus.
        own = official_size(name) is None and (dest / name / "wav.scp").is_file()
        if name in sizes or own:
            continue
        lacking = [x for x in JOINT_SETS.get(name, (name,)) if x not in sizes]
        raise DataError(
            f"{dest / name}: would not be made: no {' '.join(lacking)} in {corpus} or "
            "--parts; add parts, or name other sets (--train_set, --valid_set, "
            f"--test_sets): {' '.join(sizes)}"
        )


def check_whole(need: Sequence[str], corpus: Path, sizes: Mapping[str, int]) -> None:
    """Check that the parts of some sets have all utterances of the published corpus.

    Args:
        need: Names of sets.
        corpus: The folder LibriSpeech/.
        sizes: As in check_needed().

    Raises:
        DataError: A part has more or fewer.
    """
    for part, size in UTTERANCES_OF_PART.items():
        name = set_name(part)
        needed = any(name in (x, *JOINT_SETS.get(x, ())) for x in need)
        if needed and sizes.get(name, size) != size:
            raise DataError(
                f"{corpus / part}: has {sizes[name]} of the {size} utterances of the "
                "corpus, with audio and transcript; unpack its tar file again, or give "
                "--skip_bad (in a recipe, --skip_bad true) to use what is there"
            )


def partial_lines(corpus: Path, sizes: Mapping[str, int]) -> list[str]:
    """Describe parts that do not have all utterances of the published corpus.

    Args:
        corpus: The folder LibriSpeech/.
        sizes: As in check_needed().

    Returns:
        Lines; none if all parts are whole.
    """
    lines = []
    for part, size in {**UTTERANCES_OF_PART, **UTTERANCES_OF_MINI}.items():
        name = set_name(part)
        split = [sizes.get(f"{name}_{x}", 0) for x in ("train", "valid", "test")]
        there = sizes.get(name, sum(split))
        if there not in (0, size):
            lines.append(
                f"{corpus / part}: has {there} of the {size} utterances of the corpus, "
                "with audio and transcript"
            )
    return lines


def refuse_leftovers(dest: Path, sets: Collection[str]) -> None:
    """Refuse combined sets of an earlier preparation that are not made again.

    Args:
        dest: Parent folder of the data directories.
        sets: Names of the sets to be made.

    Raises:
        DataError: There is one.
    """
    for name, members in JOINT_SETS.items():
        if name not in sets and (dest / name).exists():
            raise DataError(
                f"{dest / name}: exists from an earlier preparation, but not all of "
                f"{' '.join(members)} are now; remove it or add the parts"
            )


def absent_lines(corpus: Path, dest: Path, sets: Collection[str]) -> list[str]:
    """Describe what a part of the corpus lacks: parts, and combined sets.

    Args:
        corpus: The folder LibriSpeech/.
        dest: Parent folder of the data directories.
        sets: Names of the sets that are made.

    Returns:
        Lines; none for the whole corpus.
    """
    lines = []
    there = find_parts(corpus)
    absent = [part for part in UTTERANCES_OF_PART if part not in there]
    # Mini LibriSpeech has none of these parts; nothing is missing then.
    if 0 < len(absent) < len(UTTERANCES_OF_PART):
        lines.append(f"{corpus}: missing parts: {' '.join(absent)}")
    for name, members in JOINT_SETS.items():
        missing = [member for member in members if member not in sets]
        if name not in sets and len(missing) < len(members):
            lines.append(f"{dest / name}: not made, lacks {' '.join(missing)}")
    return lines
