"""Format error rates of sets, of two systems, and of meetings as text."""

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
    """Score sets and write the rates as text.

    Args:
        experiments: Folders of experiments, of which all sets are scored.
        ref: Reference of `hyps`.
        hyps: Files of hypotheses.
        options: How to score.
        meeting: Score whole meetings, by cpWER and tcpWER.
        results_md: Write the tables of ESPnet's RESULTS.md.
        as_json: Write JSON in the place of a table.

    Raises:
        DataError: A file is missing or wrong.
        ConfigError: An option does not go with a set.
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
    """Compare two systems, set by set, and write the differences as text.

    Args:
        a: Experiment, or with `ref` a file of hypotheses.
        b: Likewise.
        ref: Reference of the two files.
        options: How to score.
        as_json: Write JSON in the place of a table.

    Raises:
        DataError: A file is missing or wrong, or the systems have no set in common.
        ConfigError: An option does not go with a set.
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
