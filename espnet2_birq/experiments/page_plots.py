"""Plots for an experiment's page, whose lines differ in shape as well as in colour."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from espnet2_birq.evaluation.glance import Glance
from espnet2_birq.experiments.phone_tables import accuracies
from espnet2_birq.experiments.status import COLLAPSED
from espnet2_birq.experiments.training_log import TrainingLog, all_objectives

# Okabe and Ito's colours, which the colour-blind can tell apart, by lightness.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = "osD^vP"
WIDTH = 9.0  # inches
DPI = 110


@contextmanager
def _figure(
    rows: int, columns: int, height: float, width: float = WIDTH, **options: Any
) -> Iterator[Any]:
    """Yield axes, and a buffer that contains the PNG once the context has ended."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 9, "axes.spines.top": False}):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(width, height),
            squeeze=False,
            layout="constrained",
            **options,
        )
        buffer = io.BytesIO()
        try:
            yield axes, buffer
            figure.savefig(buffer, dpi=DPI, format="png")
        finally:
            plt.close(figure)


def line_style(number: int) -> dict[str, Any]:
    """Return a line's colour and dashes, distinct to the colour-blind and in grey."""
    turn, index = divmod(number, len(COLOURS))
    # Once the colours repeat, with other dashes than before
    return {
        "color": COLOURS[index],
        "linestyle": DASHES[(index + turn) % len(DASHES)],
    }


def learning_curves(log: TrainingLog) -> bytes:
    """Plot loss and accuracy of each objective over updates, training and validation."""
    names = all_objectives(log)
    with _figure(1, 2, 3.2) as (axes, buffer):
        for axis, key, title in zip(
            axes[0], ("loss", "acc"), ("loss", "accuracy at masked frames")
        ):
            for number, name in enumerate(names):
                style = line_style(number)
                xs, ys = _points(log.updates, log.intervals, f"{key}_{name}")
                axis.plot(xs, ys, linewidth=1, label=name, **style)
                xs, ys = _points(log.ends, log.valid, f"{key}_{name}")
                axis.plot(
                    xs,
                    ys,
                    MARKERS[number % len(MARKERS)],
                    color=style["color"],
                    markerfacecolor="white",
                    markersize=6,
                    label=f"{name}, validation",
                )
            axis.set(xlabel="updates", title=title)
            axis.grid(alpha=0.3)
        axes[0][0].legend(fontsize=8)
    return buffer.getvalue()


def _legend_below(axes: Sequence[Any]) -> None:
    """Put a legend of all axes below them, where it hides no curve."""
    lines: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        lines.update(zip(labels, handles))
    axes[0].figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
    )


def _points(xs: Sequence[float], values: Sequence[Mapping[str, float]], key: str):
    pairs = [(x, value[key]) for x, value in zip(xs, values) if key in value]
    return [x for x, _ in pairs], [y for _, y in pairs]


def codebook_use(log: TrainingLog) -> bytes:
    """Plot perplexities of labels and predictions, one panel per objective."""
    names = all_objectives(log)
    kinds = (
        ("window_ppl", "labels, 10,000 frames"),
        ("label_ppl", "labels, a batch"),
        ("pred_ppl", "predictions, a batch"),
    )
    with _figure(1, len(names), 3.0, sharex=True, sharey=True) as (axes, buffer):
        for axis, name in zip(axes[0], names):
            for number, (key, label) in enumerate(kinds):
                xs, ys = _points(log.updates, log.intervals, f"{key}_{name}")
                if xs:
                    axis.plot(xs, ys, linewidth=1.2, label=label, **line_style(number))
            axis.axhspan(1, COLLAPSED, color="0.85", zorder=0)
            axis.text(0.01, 1.15, "collapsed", transform=axis.get_yaxis_transform())
            axis.set(xlabel="updates", title=name, yscale="log")
            axis.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
            axis.grid(alpha=0.3)
        highest = max(axis.get_ylim()[1] for axis in axes[0])
        axes[0][0].set(ylabel="perplexity (codes in use)", ylim=(1, highest))
        _legend_below(axes[0])
    return buffer.getvalue()


def phone_accuracy(measured: Sequence[tuple[str, dict]]) -> bytes:
    """Plot a phone probe's accuracy by layer, with standard errors.

    Args:
        measured: Names and models of phone_probe's results.
    """
    with _figure(1, 1, 3.2) as (axes, buffer):
        axis = axes[0][0]
        for number, (name, model) in enumerate(measured):
            layers = sorted(model["layers"], key=lambda layer: layer["layer"])
            means = accuracies({"models": [model]})
            axis.errorbar(
                [layer["layer"] for layer in layers],
                [means[layer["layer"]].mean() for layer in layers],
                # One speaker alone has no error.
                [layer["accuracy"]["error"] or 0.0 for layer in layers],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                linewidth=1,
                capsize=2,
                label=name,
                **line_style(number),
            )
        axis.set(
            xlabel="layer (0: the input)", title="accuracy of a linear phone probe"
        )
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return buffer.getvalue()


def layer_weights(weights: Sequence[float]) -> bytes:
    """Plot the weights of the layers in the text probe."""
    with _figure(1, 1, 2.4) as (axes, buffer):
        axis = axes[0][0]
        axis.bar(range(1, len(weights) + 1), weights, color="0.6", edgecolor="black")
        axis.set(xlabel="layer", title="weights of the layers in the probe for text")
    return buffer.getvalue()


def layer_similarity(similarity: np.ndarray) -> bytes:
    """Plot similarities (L, L) of layers, each with its number."""
    with _figure(1, 1, 4.6, 5.6) as (axes, buffer):
        axis = axes[0][0]
        image = axis.imshow(similarity, cmap="cividis", vmin=0.0, vmax=1.0)
        if len(similarity) <= 13:
            for row, column in np.ndindex(*similarity.shape):
                value = similarity[row, column]
                colour = "white" if value < 0.5 else "black"
                text = f"{value:.2f}".removeprefix("0")
                options = dict(ha="center", va="center", fontsize=7, color=colour)
                axis.text(column, row, text, **options)
        axis.set(xlabel="layer", ylabel="layer", title="similarity of the layers")
        axis.figure.colorbar(image, ax=axis)
    return buffer.getvalue()


def prediction(look: Glance) -> bytes:
    """Plot an utterance's features with its mask, labels and predictions."""
    rows = 1 + len(look.codes)
    seconds = len(look.mask) * look.shift
    masked = _spans(look.mask.numpy())
    ratios = {"height_ratios": [1.3] + [1.0] * len(look.codes)}
    with _figure(rows, 1, 2.0 * rows, sharex=True, gridspec_kw=ratios) as (
        axes,
        buffer,
    ):
        _spectrogram(axes[0][0], look, masked)
        times = (np.arange(len(look.mask)) + 0.5) * look.shift
        for axis, (name, codes) in zip(axes[1:, 0], look.codes.items()):
            labels, predictions = codes.labels.numpy(), codes.predictions.numpy()
            for start, end in masked:
                axis.axvspan(start * look.shift, end * look.shift, color="0.88")
            axis.plot(times, labels, "_", color="0.35", markersize=5, label="label")
            hit = look.mask.numpy() & (labels == predictions)
            missed = look.mask.numpy() & ~hit
            for chosen, marker, colour, text in (
                (hit, "o", COLOURS[1], "predicted as it is"),
                (missed, "x", COLOURS[2], "another code predicted"),
            ):
                axis.plot(
                    times[chosen],
                    predictions[chosen],
                    marker,
                    color=colour,
                    markersize=4.5,
                    label=text,
                )
            share = hit.sum() / max(1, look.mask.sum())
            axis.set(
                ylabel="code",
                ylim=(-0.04 * codes.size, 1.04 * codes.size),
                title=f"{name}: {100 * share:.0f} % of the masked frames predicted",
            )
        axes[-1][0].set(xlabel="seconds", xlim=(0, seconds))
        if look.codes:
            _legend_below(axes[-1])
    return buffer.getvalue()


def _spectrogram(axis: Any, look: Glance, masked: list[tuple[int, int]]) -> None:
    feats = look.features.numpy().T
    axis.imshow(
        feats,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        vmin=np.percentile(feats, 2),
        vmax=np.percentile(feats, 99),
        extent=(0, len(look.mask) * look.shift, 0, len(feats)),
        interpolation="nearest",
    )
    for start, end in masked:
        axis.axvspan(
            start * look.shift,
            end * look.shift,
            facecolor=(1, 1, 1, 0.6),
            edgecolor="black",
            hatch="//",
            linewidth=0.4,
        )
    axis.set(ylabel="mel channel", title="normalised input; hatched: masked")


def _spans(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return the start and end of each run of True."""
    edges = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))
