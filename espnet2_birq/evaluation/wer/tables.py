"""Markdown tables of error rates."""

from collections.abc import Sequence

from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.evaluation.wer.experiments import (
    DecodedSet,
    Options,
    check_alike,
    count_set,
    goes_with,
)
from espnet2_birq.evaluation.wer.sclite import summary_cells

_CLUSTER_NOTE = (
    "[95 %]: bootstrap over what stands under resampled, 1000 draws, seed 0; it does "
    "not tell how another training run would differ."
)


def format_rate(rate: dict | None) -> str:
    """Format a result of rates() as `12.3 [11.0, 13.5]`, with "-" for unknown values."""
    if rate is None:
        return "-"
    if rate["percent"] is None:  # no reference tokens; as in sclite
        return f"{rate['errors']} errors"
    if rate["low"] is None:
        return f"{rate['percent']:.1f} [-]"
    return "{percent:.1f} [{low:.1f}, {high:.1f}]".format(**rate)


def make_table(rows: Sequence[dict]) -> str:
    """Format rows of score_sets() as a table.

    Args:
        rows: Rows of score_sets().

    Returns:
        Table, preceded by a line with the normalisation.

    Raises:
        ConfigError: The rows have different normalisations.
    """
    grouped = any(row["group"] is not None for row in rows)
    head = ["experiment", "decoding", "set", *(["group"] if grouped else [])]
    head += ["utterances", "words", "WER % [95 %]", "sub", "del", "ins", "S.Err %"]
    head += ["CER % [95 %]", "resampled"]
    numbers = set(head) - {"experiment", "decoding", "set", "group", "resampled"}
    note = f"Normalisation: {check_alike(rows)}. {_CLUSTER_NOTE}"
    lines = []
    for row in rows:
        cells = [row["experiment"], row["decoding"], row["set"]]
        if grouped:
            cells.append(row["group"] or "all")
        wer = row["wer"]
        cells += [row["utterances"], wer["tokens"], format_rate(wer)]
        cells += [wer["sub"], wer["del"], wer["ins"]]
        cells.append(f"{100 * wer['wrong_utterances'] / wer['utterances']:.1f}")
        cells += [format_rate(row["cer"]), row["resampled"]]
        lines.append(cells)
    return f"{note}\n\n{markdown_table(head, lines, right=numbers)}"


def make_results_md(sets: Sequence[DecodedSet], options: Options = Options()) -> str:
    """Format tables as ESPnet's show_asr_result.sh does, without the environment.

    Args:
        sets: Decoded sets of experiments.
        options: Scoring options.

    Returns:
        A heading per experiment, with tables of WER, CER and TER.

    Raises:
        DataError: A file is missing or wrong.
        ConfigError: The normalisation cannot be used with characters or tokens.
    """
    of_experiment: dict[str, list[DecodedSet]] = {}
    for one in sets:
        # The validation set is one folder deeper, and so is its pattern in the script.
        is_deep = one.name.startswith("org/")
        head = f"{one.experiment}/{one.decoding}" if is_deep else one.experiment
        of_experiment.setdefault(head, []).append(one)
    lines = []
    if options.normalization.name != "none":
        lines += [f"Normalisation: {options.normalization.name}.", ""]
    for experiment, some in of_experiment.items():
        lines.append(f"## {experiment}")
        for kind in ("wer", "cer", "ter"):
            lines += [f"### {kind.upper()}", ""]
            lines += ["|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|"]
            lines += ["|---|---|---|---|---|---|---|---|---|"]
            found = [_results_row(one, kind, options) for one in some]
            if any(found):
                lines += [*filter(None, found), ""]
    return "\n".join(lines)


def _results_row(one: DecodedSet, kind: str, options: Options) -> str | None:
    if kind == "ter" and kind not in one.pairs:
        return None
    if not goes_with(kind, options.normalization):
        return None
    _, counts = count_set(one, kind, options.normalization)
    is_whole = one.decoding == "-" or one.name.startswith("org/")
    name = one.name if is_whole else f"{one.decoding}/{one.name}"
    return "|".join(["", name, *summary_cells(counts), ""])
