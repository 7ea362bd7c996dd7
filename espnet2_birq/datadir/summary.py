"""Summary of a prepared data directory, for printing."""

from collections.abc import Collection, Mapping
from pathlib import Path


def summary_lines(
    dest: Path,
    utterances: int,
    speakers: str,
    seconds: float,
    skipped: Mapping[str, Collection[str]],
) -> list[str]:
    """Summarise the size of a set and its skipped items.

    Args:
        dest: Folder of the set.
        utterances: Number of utterances.
        speakers: Description of the speakers, for example "5 speakers".
        seconds: Total duration in seconds.
        skipped: Mapping from reason to the names of skipped items.

    Returns:
        A line for the set, and a line per reason with its first example.
    """
    total = sum(len(names) for names in skipped.values())
    lines = [
        f"{dest}: {utterances} utterances, {speakers}, {seconds / 3600:.2f} hours, "
        f"{total} skipped"
    ]
    for reason, names in sorted(skipped.items()):
        lines.append(f"{dest}: skipped {len(names)} x {reason}; first: {min(names)}")
    return lines
