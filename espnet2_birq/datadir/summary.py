"""What the preparation of a data directory says about it."""

from collections.abc import Collection, Mapping
from pathlib import Path


def summary_lines(
    dest: Path,
    utterances: int,
    speakers: str,
    seconds: float,
    skipped: Mapping[str, Collection[str]],
) -> list[str]:
    """Tell what a set holds, and what was left out and why.

    Args:
        dest: The set's folder.
        utterances: How many there are.
        speakers: How many speakers, as "5 speakers".
        seconds: Duration of all utterances.
        skipped: Reason to the names of what was left out for it.

    Returns:
        A line for the set and one for each reason, with its first example.
    """
    total = sum(len(names) for names in skipped.values())
    lines = [
        f"{dest}: {utterances} utterances, {speakers}, {seconds / 3600:.2f} hours, "
        f"{total} skipped"
    ]
    for reason, names in sorted(skipped.items()):
        lines.append(f"{dest}: skipped {len(names)} x {reason}; first: {min(names)}")
    return lines
