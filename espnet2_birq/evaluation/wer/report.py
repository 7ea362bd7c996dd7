"""Reports of error rates of sets, of two systems, and of meetings."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from espnet2_birq.evaluation.wer.comparison import (
    compare_sets,
    make_comparison_table,
    pair_sets,
)
from espnet2_birq.evaluation.wer.experiments import (
    Options,
    find_sets,
    plain_set,
    score_sets,
)
from espnet2_birq.evaluation.wer.meeting import make_meeting_table, score_meetings
from espnet2_birq.evaluation.wer.tables import make_results_md, make_table


def report_sets(
    experiments: Sequence[Path],
    ref: Path | None = None,
    hyps: Sequence[Path] = (),
    options: Options = Options(),
    *,
    meeting: bool = False,
    results_md: bool = False,
    as_json: bool = False,
) -> str:
    """Score sets and format the rates as text.

    Args:
        experiments: Folders of experiments; all their sets are scored.
        ref: Reference file of `hyps`.
        hyps: Hypothesis files.
        options: Scoring options.
        meeting: Whether to score whole meetings, by cpWER and tcpWER.
        results_md: Whether to write the tables of ESPnet's RESULTS.md.
        as_json: Whether to write JSON instead of a table.

    Raises:
        DataError: A file is missing or wrong.
        ConfigError: An option cannot be used with a set.
    """
    sets = [one for path in experiments for one in find_sets(path)]
    if ref is not None:
        sets += [plain_set(ref, path) for path in hyps]
    if meeting:
        rows = [row for one in sets for row in score_meetings(one, options)]
        return _write(rows, make_meeting_table, as_json)
    if results_md:
        return make_results_md(sets, options)
    return _write(score_sets(sets, options), make_table, as_json)


def report_comparison(
    a: Path,
    b: Path,
    ref: Path | None = None,
    options: Options = Options(),
    as_json: bool = False,
) -> str:
    """Compare two systems, set by set, and format the differences as text.

    Args:
        a: Folder of an experiment, or with `ref` a hypothesis file.
        b: The same for the other system.
        ref: Reference file of two hypothesis files.
        options: Scoring options.
        as_json: Whether to write JSON instead of a table.

    Raises:
        DataError: A file is missing or wrong, or the systems have no set in common.
        ConfigError: An option cannot be used with a set.
    """
    ours, theirs = (
        [plain_set(ref, path)] if ref else find_sets(path) for path in (a, b)
    )
    results = [compare_sets(*pair, options) for pair in pair_sets(ours, theirs)]
    return _write(results, make_comparison_table, as_json)


def _write(
    rows: list[dict], make: Callable[[Sequence[dict]], str], as_json: bool
) -> str:
    return json.dumps(rows, indent=2) if as_json else make(rows)
