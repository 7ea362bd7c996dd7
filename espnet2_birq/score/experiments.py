"""Error rates of decoded ASR experiments, as asr.sh lays them out."""

from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.errors import DataError
from espnet2_birq.score.error_rate import (
    bootstrap_interval,
    count_errors,
    error_rate,
    fold_case,
    read_trn_pair,
)

KINDS = ("wer", "cer")


def find_decodings(experiment: Path) -> list[Path]:
    """Find the scored sets of an experiment.

    Args:
        experiment: Its folder, as in exp/asr_train.

    Returns:
        Folders <experiment>/<decoding>/<set>, or .../org/<set>, sorted.

    Raises:
        DataError: There is no such folder.
    """
    if not experiment.is_dir():
        raise DataError(f"{experiment}: no such folder; give one as exp/asr_train")
    found = {
        score.parent
        for kind in KINDS
        # The validation set, if it is decoded, is below org/.
        for pattern in (f"*/*/score_{kind}", f"*/org/*/score_{kind}")
        for score in experiment.glob(pattern)
    }
    if not found:
        raise DataError(
            f"{experiment}/decode_*/<set>/score_wer/ref.trn: no such file; "
            "run asr.sh with --stage 12 --stop_stage 13"
        )
    return sorted(found)


def score_set(folder: Path, kind: str, case_sensitive: bool) -> dict:
    """Score one set.

    Args:
        folder: <experiment>/<decoding>/<set>.
        kind: "wer" or "cer".
        case_sensitive: Whether "a" and "A" differ.

    Returns:
        Number of utterances, tokens and errors; the error rate and the ends of its
        interval, in percent.

    Raises:
        DataError: A trn file is missing or wrong.
    """
    score = folder / f"score_{kind}"
    pairs = read_trn_pair(score / "ref.trn", score / "hyp.trn").values()
    if not any(ref for ref, _ in pairs):
        raise DataError(f"{score / 'ref.trn'}: has no token; check the set's text")
    if not case_sensitive:
        pairs = [(fold_case(ref), fold_case(hyp)) for ref, hyp in pairs]
    counts = [count_errors(ref, hyp) for ref, hyp in pairs]
    low, high = bootstrap_interval(counts)
    return {
        "utterances": len(counts),
        "tokens": sum(count.ref_tokens for count in counts),
        "errors": sum(count.errors for count in counts),
        "percent": 100 * error_rate(counts),
        "low": 100 * low,
        "high": 100 * high,
    }


def score_experiments(experiments: Sequence[Path], case_sensitive: bool) -> list[dict]:
    """Score all sets of experiments.

    Args:
        experiments: Their folders.
        case_sensitive: Whether "a" and "A" differ.

    Returns:
        For each decoded set: experiment, decoding, set, utterances, wer and cer, of
        which the last two are what score_set() gives.

    Raises:
        DataError: A folder or a trn file is missing or wrong.
    """
    rows = []
    for experiment in experiments:
        for folder in find_decodings(experiment):
            decoding, _, name = folder.relative_to(experiment).as_posix().partition("/")
            scores = {kind: score_set(folder, kind, case_sensitive) for kind in KINDS}
            rows.append(
                {
                    "experiment": str(experiment),
                    "decoding": decoding,
                    "set": name,
                    "utterances": scores["wer"]["utterances"],
                    **scores,
                }
            )
    return rows


def make_table(rows: Sequence[dict]) -> str:
    """Format rows of score_experiments() as a table in Markdown."""
    lines = [
        "| experiment | decoding | set | utterances | WER % [95 % CI] "
        "| CER % [95 % CI] |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        wer, cer = (
            "{percent:.1f} [{low:.1f}, {high:.1f}]".format(**row[kind])
            for kind in KINDS
        )
        lines.append(
            f"| {row['experiment']} | {row['decoding']} | {row['set']} "
            f"| {row['utterances']} | {wer} | {cer} |"
        )
    return "\n".join(lines)
