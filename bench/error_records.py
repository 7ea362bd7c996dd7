"""Error rates of a matrix by speaker, kept for records.py."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.wer.experiments import count_set, find_sets, scored_set
from espnet2_birq.evaluation.wer.grouping import label
from espnet2_birq.evaluation.wer.normalization import get_normalization
from espnet2_birq.experiments.results import (
    FROZEN,
    Errors,
    own_decodings,
    resample,
)

FILE = Path(__file__).resolve().parents[1] / "docs" / "evidence" / "errors.jsonl"
KIND = "cer"
NAME = re.compile(r"(?:asr_)?(.+)_seed(\d+)(?:_(.+))?")

# By comparison, system, seed and what was decoded, such as "frozen, test_other": errors and
# tokens by speaker.
Records = dict[tuple[str, str, int, str], dict[str, list[int]]]


def read_lines(path: Path) -> list[dict]:
    """Read a file of records; none if it is not there."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def write_lines(path: Path, lines: Iterable[dict]) -> None:
    """Write a file of records."""
    write_whole(path, "".join(f"{json.dumps(line)}\n" for line in lines))


def pair_of(text: str) -> list[str]:
    """Split OWN:OTHER."""
    names = text.split(":")
    if len(names) != 2:
        raise DataError(f"'{text}' is not OWN:OTHER, the names of two systems")
    return names


def signed(value: float, digits: int) -> str:
    """Format a difference, without a zero before the point."""
    text = f"{value:+.{digits}f}"
    if not float(text):
        return text[2:]
    return text[0] + text[1:].removeprefix("0")


def read_records(path: Path = FILE) -> Records:
    """Read kept error counts."""
    records: Records = {}
    for one in read_lines(path):
        for name, speakers in one["sets"].items():
            records[one["comparison"], one["system"], one["seed"], name] = speakers
    return records


def keep(comparison: str, out: Path, path: Path = FILE) -> int:
    """Add the error counts of a matrix's finished probes and fine-tunings to a file of records.

    Args:
        comparison: Name of the comparison.
        out: Output folder of the matrix.
        path: File of records, made if needed.

    Returns:
        Number of decoded sets.
    """
    records, found = read_records(path), 0
    # Both are written at the end.
    ends = [*out.glob("probe/*/probe.json"), *out.glob("steps/asr_*/done.json")]
    for folder in sorted(end.parent for end in ends):
        system, seed, hours = NAME.fullmatch(folder.name).groups()
        if hours is None:
            scores = sorted(folder.glob("*/score_cer"))
            sets = [scored_set(score.parent) for score in scores]
        else:
            sets = own_decodings(find_sets(out / "asr" / folder.name))
        for one in sets:
            ids, counts = count_set(one, KIND, get_normalization("none"))
            speakers: dict[str, list[int]] = {}
            for name, (correct, *errors) in zip(label(ids), counts.tolist()):
                if name.speaker is None:
                    raise DataError(f"{folder}: utterances without speakers")
                sums = speakers.setdefault(name.speaker, [0, 0])
                sums[0] += sum(errors)
                sums[1] += correct + sum(errors[:2])  # substitutions, deletions
            key = f"{hours or FROZEN}, {one.name}"
            records[comparison, system, int(seed), key] = dict(sorted(speakers.items()))
            found += 1
    lines: dict[tuple, dict] = {}
    for (name, system, number, key), counted in sorted(records.items()):
        lines.setdefault((name, system, number), {})[key] = counted
    write_lines(
        path,
        (
            dict(comparison=name, system=system, seed=number, sets=sets)
            for (name, system, number), sets in lines.items()
        ),
    )
    return found


def columns(records: Records, comparison: str, only: str = "") -> list[str]:
    """Return what was decoded in a comparison and begins with `only`, the probe first."""
    names = {key[3] for key in records if key[0] == comparison}
    names = {name for name in names if name.startswith(only)}
    return sorted(names, key=lambda name: (not name.startswith(FROZEN), name))


def _select(
    records: Records, comparison: str, system: str, seeds: Sequence[int], name: str
) -> list[Errors] | None:
    """Return errors by seed, a speaker in the place of an utterance; None if not all."""
    keys = [(comparison, system, seed, name) for seed in seeds]
    if any(key not in records for key in keys):
        return None
    found = []
    for key in keys:
        errors, tokens = np.array(list(records[key].values())).T
        speakers = list(records[key])
        found.append(Errors(speakers, errors, tokens, np.arange(len(speakers))))
    return found


def errors(
    records: Records,
    comparison: str,
    seeds: Sequence[int],
    systems: Sequence[str],
    only: str = "",
) -> list[list[str]]:
    """Make a row for each system: its name, and character error rates in % by seed."""
    rows = []
    for system in systems:
        rows.append([system])
        for name in columns(records, comparison, only):
            chosen = _select(records, comparison, system, seeds, name) or []
            rates = [100 * one.errors.sum() / one.tokens.sum() for one in chosen]
            rows[-1].append(", ".join(f"{rate:.1f}" for rate in rates))
        if not any(rows[-1][1:]):
            raise DataError(
                f"no record of {comparison}, {system}, seeds {seeds}: run the matrix, "
                "then 'records.py keep'"
            )
    return rows


def error_differences(
    records: Records,
    comparison: str,
    seeds: Sequence[int],
    pairs: Sequence[str],
    only: str = "",
) -> list[list[str]]:
    """Make a row for each pair OWN:OTHER: its name, and differences in points."""
    rows = []
    for pair in pairs:
        names = pair_of(pair)
        rows.append([" minus ".join(names)])
        for column in columns(records, comparison, only):
            own, other = (
                _select(records, comparison, name, seeds, column) for name in names
            )
            cell = ""
            if own and other:
                ends = resample(own, other)
                cell = "{} [{}, {}]".format(
                    *(signed(ends[key], 2) for key in ("percent", "low", "high"))
                )
            rows[-1].append(cell)
        if not any(rows[-1][1:]):
            raise DataError(f"no records of {pair} in {comparison}, seeds {seeds}")
    return rows
