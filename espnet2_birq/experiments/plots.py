"""Plots of training logs, and of a matrix."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from espnet2_birq.datadir.files import whole_file
from espnet2_birq.errors import ConfigError
from espnet2_birq.experiments.page_plots import line_style
from espnet2_birq.experiments.phone_tables import accuracies
from espnet2_birq.experiments.results import Result, resample
from espnet2_birq.experiments.runner import Runner
from espnet2_birq.experiments.training_log import TrainingLog, all_objectives

Results = dict[str, dict[int, Result]]
TURN = 10  # colours of matplotlib; then they repeat, with other dashes and markers
DASHES = ("-", "--", "-.", ":")
MARKERS = "os^vDxP*"

COLUMNS = 3  # of panels
# Plots over updates for each objective: file, title, keys of the training
# log without the objective's name.
CURVES = (
    ("learning.png", "learning curves", ("loss", "acc")),
    ("codebooks.png", "use of the codebooks", ("window_ppl", "pred_ppl", "agree")),
)


def plot_all(runner: Runner, results: Results) -> list[tuple[str, str]]:
    """Plot all available results.

    Args:
        runner: Runner of the matrix; files are written to its OUT.
        results: Results by system and seed.

    Returns:
        Title and name of each file.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    figures = []
    for name, title, keys in CURVES:
        figures += _curves(runner, results, name, title, keys)
    figures += _error_rates(runner, results)
    figures += _phones(runner, results)
    return figures + _layer_weights(runner, results)


def plot_logs(
    logs: Sequence[tuple[str, TrainingLog]],
    out: Path,
    keys: Sequence[str] | None = None,
    log_scale: bool = False,
) -> None:
    """Plot statistics of training logs over updates, one panel per key.

    Args:
        logs: Names for the legend, and the logs.
        out: PNG or PDF file to write.
        keys: Names in train.log; None: the loss of every objective.
        log_scale: Whether y axes are logarithmic.

    Raises:
        ConfigError: No log contains one of the keys, or the file has another suffix.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    names = _names(log for _, log in logs)
    keys = keys or [f"loss_{name}" for name in names] or ["loss"]
    there = {key for _, log in logs for values in log.intervals for key in values}
    for key in keys:
        if key not in there:
            raise ConfigError(
                f"--keys {key}: in no log; there are {', '.join(sorted(there))}"
            )
    if out.suffix not in (".png", ".pdf"):
        raise ConfigError(f"--out {out}: give a name that ends in .png or .pdf")
    columns = min(len(keys), COLUMNS)
    figure, axes = plt.subplots(
        -(-len(keys) // columns),
        columns,
        figsize=(3.6 * columns, 2.6 * -(-len(keys) // columns) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(keys) :]:
        axis.remove()
    lines: dict[int, Any] = {}
    for axis, key in zip(axes.flat, keys):
        for number, (_, log) in enumerate(logs):
            if line := _plot_values(axis, log, key, **line_style(number)):
                lines[number] = line
        axis.set_xlabel("updates")
        axis.set_title(key)
        axis.grid(alpha=0.3)
        if log_scale:
            axis.set_yscale("log")
    shown = sorted(lines)
    figure.legend(
        [lines[number] for number in shown],
        [logs[number][0] for number in shown],
        loc="outside upper left",
        ncols=len(logs),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _names(logs: Iterable[TrainingLog]) -> list[str]:
    """Return the objectives of all logs, in order of appearance."""
    return list(dict.fromkeys(x for log in logs for x in all_objectives(log)))


def _plot_values(axis: Any, log: TrainingLog, key: str, **style: Any) -> Any:
    """Plot a key over updates; return the line, or None if the log lacks the key."""
    points = [
        (update, values[key])
        for update, values in zip(log.updates, log.intervals)
        if key in values
    ]
    return axis.plot(*zip(*points), **style)[0] if points else None


def _marks(number: int) -> dict[str, Any]:
    """Return the colour and marker of a system."""
    turn, colour = divmod(number, TURN)
    return {"color": f"C{colour}", "marker": MARKERS[turn % len(MARKERS)]}


def _legend(axis: Any, runner: Runner, lines: dict[int, Any]) -> None:
    """Name the systems, by number, of a figure's panels; one may lack some of them."""
    labels = [runner.spec.systems[number].label for number in sorted(lines)]
    axis.legend([lines[number] for number in sorted(lines)], labels, fontsize=8)


def _axes(rows: int, columns: int):
    import matplotlib.pyplot as plt

    size = (4.2 * columns, 3.2 * rows)
    return plt.subplots(rows, columns, figsize=size, squeeze=False)


def _save(figure, runner: Runner, name: str) -> None:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    with whole_file(runner.out / name) as part:
        figure.savefig(part, dpi=80, format="png")
    plt.close(figure)


def _curves(runner, results, name, title, keys):
    """Plot one panel per key, with one colour per system."""
    logs = [
        (number, result.pretraining.log)
        for number, system in enumerate(runner.spec.systems)
        for result in results[system.name].values()
        if result.pretraining
    ]
    names = _names(log for _, log in logs)
    there = {key for _, log in logs for values in log.intervals for key in values}
    keys = [f"{key}_{name}" for name in names for key in keys]
    keys = [key for key in keys if key in there]
    if not keys:
        return []
    figure, axes = _axes(1, len(keys))
    lines = {}
    for axis, key in zip(axes[0], keys):
        for number, log in logs:
            turn, colour = divmod(number, TURN)
            style = dict(color=f"C{colour}", linestyle=DASHES[turn % len(DASHES)])
            if line := _plot_values(axis, log, key, linewidth=0.8, **style):
                lines[number] = line
        axis.set(xlabel="updates", title=key)
        axis.grid(alpha=0.3)
    _legend(axes[0][0], runner, lines)
    _save(figure, runner, name)
    return [(title, name)]


def _error_rates(runner, results):
    """Plot WER with intervals over updates and compute of pretraining."""
    sets = [
        (one.name, test)
        for one in runner.spec.finetune_sets
        for test in runner.spec.tests
    ]
    points = {key: list(_points(runner, results, (*key, "wer"))) for key in sets}
    points = {key: value for key, value in points.items() if value}
    if not points:
        return []
    figure, axes = _axes(2, len(points))
    lines = {}
    for column, (key, found) in enumerate(points.items()):
        for row, unit in enumerate(("updates", "TFLOP of pretraining")):
            axis = axes[row][column]
            for number, _, xs, score in found:
                middle, low, high = (score[name] for name in ("percent", "low", "high"))
                bars = None
                if low is not None:
                    bars = [[max(0, middle - low)], [max(0, high - middle)]]
                style = dict(linestyle="none", capsize=3, **_marks(number))
                lines[number] = axis.errorbar(xs[row], middle, bars, **style)
            axis.set(xlabel=unit, ylabel="WER %", title=f"{key[0]}, {key[1]}")
            axis.grid(alpha=0.3)
    _legend(axes[0][0], runner, lines)
    _save(figure, runner, "wer.png")
    return [("WER against updates and against compute of pretraining", "wer.png")]


def _points(runner, results, key):
    for number, system in enumerate(runner.spec.systems):
        done = [r for r in results[system.name].values() if key in r.errors]
        runs = [r.pretraining for r in done if r.pretraining]
        if done and (runs or system.pretrain is None):
            # From scratch, there is no run; of others, some may not have been copied here.
            updates = sum(run.updates for run in runs) / max(1, len(runs))
            compute = sum(run.flops for run in runs) / max(1, len(runs)) / 1e12
            score = resample([result.errors[key] for result in done])
            yield number, system.label, (updates, compute), score


def _layer_weights(runner, results):
    """Plot the probe's layer weights."""
    figure, axes = _axes(1, 1)
    for number, system in enumerate(runner.spec.systems):
        found = results[system.name].values()
        weights = [result.probe["layer_weights"] for result in found if result.probe]
        if weights:
            means = [sum(column) / len(weights) for column in zip(*weights)]
            layers = range(1, len(means) + 1)
            axes[0][0].plot(layers, means, label=system.label, **_marks(number))
    if not axes[0][0].lines:
        return []
    axes[0][0].set(xlabel="encoder layer", ylabel="weight in the probe")
    axes[0][0].legend(fontsize=8)
    axes[0][0].grid(alpha=0.3)
    _save(figure, runner, "layers.png")
    return [("weights of the layers in the probe", "layers.png")]


def _phones(runner, results):
    """Plot phone probe accuracy by layer, one line per seed, one style per system."""
    figure, axes = _axes(1, 1)
    for number, system in enumerate(runner.spec.systems):
        marker = MARKERS[number % len(MARKERS)]
        style = f"C{number}{marker}{DASHES[number % len(DASHES)]}"
        label = system.label
        for result in results[system.name].values():
            if result.phones is not None:
                layers = accuracies(result.phones)
                means = [layers[layer].mean() for layer in layers]
                form = dict(label=label, markersize=4, linewidth=1)
                axes[0][0].plot(list(layers), means, style, **form)
                label = None
    if not axes[0][0].lines:
        return []
    figure.set_figwidth(8)  # room for long names beside the lines
    axes[0][0].set(xlabel="layer (0: the input)", ylabel="accuracy of phones")
    axes[0][0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes[0][0].grid(alpha=0.3)
    _save(figure, runner, "phones.png")
    return [("phones by layer, each seed", "phones.png")]
