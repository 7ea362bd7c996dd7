"""Report of a matrix: tables and plots of the results on disk."""

import sys
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.experiments.phone_tables import phone_tables
from espnet2_birq.experiments.plots import plot_all
from espnet2_birq.experiments.results import (
    FROZEN,
    Errors,
    Result,
    read_results,
    resample,
)
from espnet2_birq.experiments.runner import Runner
from espnet2_birq.experiments.spec import System
from espnet2_birq.experiments.training_log import all_objectives

Results = dict[str, dict[int, Result]]
LEFT_OUT = "left out of the report until it is run again"

# Columns of an objective in the pretraining table: title, key of the last epoch's
# means without the objective's name, training or validation set, factor, format.
STATISTICS = [
    ("loss, train", "loss", "train", 1, ".2f"),
    ("valid", "loss", "valid", 1, ".2f"),
    ("masked acc. %", "acc", "train", 100, ".1f"),
    ("label ppl", "window_ppl", "train", 1, ".0f"),
    ("prediction ppl", "pred_ppl", "train", 1, ".0f"),
    ("hit rate %", "hit", "train", 100, ".0f"),
    ("label entropy, nats", "label_entropy", "train", 1, ".2f"),
    ("agreement with the head's first %", "agree", "train", 100, ".1f"),
]


def write_report(runner: Runner, seeds: list[int]) -> Path:
    """Write OUT/report.md and its plots.

    Results that are not current are left out; they are listed in the report and on stderr.

    Args:
        runner: Runner of the matrix.
        seeds: Seeds to report.

    Returns:
        The report's path.
    """
    results, left_out = read_results(runner, seeds)
    for name, why in left_out.items():
        print(f"warning: {name}: {why}; {LEFT_OUT}", file=sys.stderr)
    figures = plot_all(runner, results)
    parts = [_pretraining_table(runner.spec.systems, results)]
    parts += phone_tables(runner.spec, results)
    if runner.spec.probe is not None:
        parts.append(_probe_table(runner, results))
    for one in runner.spec.finetune_sets:
        for test in runner.spec.tests:
            parts.append(_error_table(runner, results, one.name, test))
    if runner.spec.compare:
        parts.append(_comparisons(runner, results))
    if left_out:
        lines = [f"- {name}: {why}" for name, why in left_out.items()]
        lines = [f"## Left out\n\nEach is {LEFT_OUT}:\n", *lines]
        parts.append("\n".join(lines))
    parts += [f"![{title}]({name})" for title, name in figures]
    path = runner.out / "report.md"
    write_whole(path, "\n\n".join(filter(None, parts)) + "\n")
    return path


def _pretraining_table(systems: list[System], results: Results) -> str:
    titles = ["system", "updates", "compute, TFLOP", "minutes", "objective"]
    titles += [column[0] for column in STATISTICS]
    rows = []
    for system in systems:
        done = [r.pretraining for r in results[system.name].values() if r.pretraining]
        if not done:
            continue
        first = [system.label, _each([one.updates for one in done], ".0f")]
        first.append(_each([one.flops / 1e12 for one in done], ".3g"))
        first.append(_each([one.log.seconds / 60 for one in done], ".1f"))
        # With `once`, an objective may have started with some seeds only.
        for name in dict.fromkeys(x for one in done for x in all_objectives(one.log)):
            row = [*first, name]
            for _, key, part, factor, form in STATISTICS:
                values = [getattr(x.log, part)[-1].get(f"{key}_{name}") for x in done]
                values = [factor * value for value in values if value is not None]
                row.append(_each(values, form))
            rows.append(row)
            first = [""] * len(first)
    if not rows:
        return ""
    used = [i for i in range(len(titles)) if any(row[i] not in "-" for row in rows)]
    head, *rows = [[row[i] for i in used] for row in [titles, *rows]]
    table = markdown_table(head, rows)
    return f"""## Pretraining

{table}

Mean over seeds (each seed), last epoch; label ppl over 10,000 frames."""


def _probe_table(runner: Runner, results: Results) -> str:
    tests = runner.spec.tests
    rows = [["system", *(f"CER % {test} [95 %]" for test in tests), "layer weights"]]
    for system in runner.spec.systems:
        probes = [r.probe for r in results[system.name].values() if r.probe]
        if not probes:
            continue
        row = [system.label]
        for test in tests:
            scores = [probe["cer"][test] for probe in probes]
            each = "; ".join(map(_interval, scores))
            mean = sum(score["percent"] for score in scores) / len(scores)
            row.append(f"{mean:.1f} ({each})" if len(scores) > 1 else each)
        weights = [probe["layer_weights"] for probe in probes]
        means = [sum(column) / len(weights) for column in zip(*weights)]
        rows.append([*row, " ".join(f"{mean:.2f}" for mean in means)])
    if not rows[1:]:
        return ""
    table = markdown_table(rows[0], rows[1:])
    probes = [r.probe for x in results.values() for r in x.values() if r.probe]
    units = [
        f"{' or '.join(sorted({probe['cer'][test]['resampled'] for probe in probes}))} "
        f"of {test}"
        for test in tests
    ]
    return f"""## Probe of the frozen encoder

{table}

Resampled for the intervals: {", ".join(units)}."""


def _error_table(runner: Runner, results: Results, dataset: str, test: str) -> str:
    rows = [["system", "seeds", "WER % [95 %]", "each seed", "CER % [95 %]", "each"]]
    for system in runner.spec.systems:
        row = [system.label]
        for kind in ("wer", "cer"):
            own = _errors(results[system.name], (dataset, test, kind)).values()
            if not own:
                break
            rates = [100 * one.errors.sum() / one.tokens.sum() for one in own]
            row += [str(len(own))] if kind == "wer" else []
            row.append(_interval(resample(list(own))))
            row.append("; ".join(f"{rate:.1f}" for rate in rates))
        else:
            rows.append(row)
    if not rows[1:]:
        return ""
    table = markdown_table(rows[0], rows[1:])
    return f"## Fine-tuned on {dataset}, tested on {test}\n\n{table}"


def _comparisons(runner: Runner, results: Results) -> str:
    rows = [["systems", "fine-tuned on", "test", "seeds", "WER", "CER"]]
    sets = [FROZEN, *(one.name for one in runner.spec.finetune_sets)]
    for pair in runner.spec.compare:
        label = " minus ".join(runner.spec.system(name).label for name in pair)
        for dataset in sets:
            for test in runner.spec.tests:
                cells: list[str] = []
                for kind in ("wer", "cer"):
                    key = (dataset, test, kind)
                    own, other = (_errors(results[name], key) for name in pair)
                    seeds = sorted(own.keys() & other.keys())
                    if seeds:
                        ours, theirs = ([x[y] for y in seeds] for x in (own, other))
                        cells = cells or [str(len(seeds))]
                        cells.append(_interval(resample(ours, theirs), "+.2f"))
                if cells:
                    rows.append([label, dataset, test, *cells])
    if not rows[1:]:
        return ""
    return f"""## Differences of error rates, in points [95 %]

{markdown_table(rows[0], rows[1:])}

Below zero: the first system is better. "{FROZEN}" is the probe. All intervals are by
bootstrap over seeds and speakers (AMI: meetings; utterances if there are fewer than five
of them), the same for both systems; with few seeds they are rough."""


def _errors(by_seed: dict[int, Result], key) -> dict[int, Errors]:
    return {
        seed: result.errors[key]
        for seed, result in by_seed.items()
        if key in result.errors
    }


def _each(values: Sequence[float], form: str) -> str:
    """Format the mean, and the values if they differ."""
    if not values:
        return "-"
    each = [f"{value:{form}}" for value in values]
    if len(set(each)) == 1:
        return each[0]
    return f"{sum(values) / len(values):{form}} ({'; '.join(each)})"


def _interval(score: dict, form: str = ".1f") -> str:
    if score["low"] is None:  # nothing to resample
        return f"{score['percent']:{form}} [-]"
    return "{percent:{f}} [{low:{f}}, {high:{f}}]".format(f=form, **score)
