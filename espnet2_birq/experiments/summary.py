"""Compare pretraining, hand-off and error rates of several systems."""

import re
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.evaluation.wer.experiments import score_experiments
from espnet2_birq.evaluation.wer.tables import format_rate
from espnet2_birq.experiments.training_log import all_objectives, read_training_log
from espnet2_birq.reading import read_text

HEADER = (
    "system",
    "objective: loss, first and last",
    "masked acc. %",
    "perplexity of labels / predictions",
    "tensors handed off",
    "CER % [95 %]",
    "WER % [95 %]",
    "pretraining, fine-tuning s",
)


def summarize(systems: Sequence[tuple[str, Path | None, Path]]) -> str:
    """Make a Markdown table of systems.

    Args:
        systems: Name, pretraining experiment (None: from scratch) and decoded and scored
            ASR experiment of each system.

    Returns:
        The table, with a row per system and test set, and a line that
        names the unit of resampling.

    Raises:
        DataError: A stage's output file is missing.
    """
    rows, drawn = [], {}
    for name, ssl_exp, asr_exp in systems:
        pretraining, ssl_seconds = _pretraining(ssl_exp, asr_exp)
        times = f"{ssl_seconds}, {read_training_log(asr_exp).seconds}"
        for number, scores in enumerate(score_experiments([asr_exp])):
            rates = [format_rate(scores[kind]) for kind in ("cer", "wer")]
            drawn[scores["set"]] = scores["resampled"]
            if number == 0:
                first = [name, *pretraining]
            else:
                first = [""] * (1 + len(pretraining))
            label = (
                f"{first[0]} ({scores['set']})" if first[0] else f"({scores['set']})"
            )
            rows.append([label, *first[1:], *rates, times if number == 0 else ""])
    over = ", ".join(f"{name} ({clusters})" for name, clusters in drawn.items())
    note = f"Normalisation: none. [95 %]: bootstrap over {over}."
    return f"{markdown_table(HEADER, rows)}\n\n{note}"


def _pretraining(ssl_exp: Path | None, asr_exp: Path) -> tuple[Sequence[str], int]:
    """Return columns 2 to 5 of a row, and the seconds of pretraining."""
    if ssl_exp is None:
        return ["-"] * 4, 0
    log = read_training_log(ssl_exp)
    if not log.train:
        raise DataError(f"{ssl_exp}: no epoch of pretraining has ended; train on")
    first, last, epoch = log.intervals[0], log.intervals[-1], log.train[-1]
    handoff = asr_exp / "handoff.txt"
    if not handoff.is_file():
        raise DataError(f"{handoff}: no such file; run stage 11 of finetune.sh")
    counts = re.search(r"pretraining: (\d+ of \d+)", read_text(handoff))
    if counts is None:
        raise DataError(f"{handoff}: is incomplete; run stage 11 of finetune.sh")
    losses, accuracies, perplexities = [], [], []
    for name in all_objectives(log):
        key = f"loss_{name}"
        # Objectives that start late, stop or are rarely active may be missing.
        ends = [f"{x[key]:.2f}" if key in x else "-" for x in (first, last)]
        losses.append(f"{name}: {', '.join(ends)}")
        # Latent prediction has neither.
        key = f"acc_{name}"
        accuracies.append(f"{100 * epoch[key]:.1f}" if key in epoch else "-")
        pair = [f"{kind}_ppl_{name}" for kind in ("label", "pred")]
        both = [f"{epoch[key]:.0f}" if key in epoch else "-" for key in pair]
        perplexities.append(" / ".join(both))
    columns = ["; ".join(cell) for cell in (losses, accuracies, perplexities)]
    return [*columns, counts[1]], log.seconds
