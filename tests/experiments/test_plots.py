"""Legends and styles of plots: each system is named, and told from all others."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import colors, figure

from espnet2_birq.experiments import plots
from espnet2_birq.experiments.page_plots import codebook_use, line_style
from espnet2_birq.experiments.results import Errors, Result
from espnet2_birq.experiments.spec import System
from espnet2_birq.experiments.training_log import TrainingLog

SYSTEMS = 13  # more than matplotlib has colours


def log_of(*objectives):
    values = [{f"loss_{x}": loss for x in objectives} for loss in (2.0, 1.0)]
    return TrainingLog([1, 2], values, values, values, 1, 2)


@pytest.fixture
def drawn(monkeypatch):
    """Figures, as they are saved."""
    found = []
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *_, **options: found.append(self)
    )
    return found


@pytest.fixture
def runner(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "whole_file", nullcontext)
    systems = [System(f"s{n}", f"system {n}", {}) for n in range(SYSTEMS)]
    spec = SimpleNamespace(
        systems=systems,
        finetune_sets=[SimpleNamespace(name="1h"), SimpleNamespace(name="10h")],
        tests=["test"],
    )
    return SimpleNamespace(spec=spec, out=tmp_path)


def legend(drawn):
    (only,) = drawn
    (box,) = only.legends or [x.get_legend() for x in only.axes if x.get_legend()]
    return [text.get_text() for text in box.get_texts()]


def styles(axes):
    """Return the style of each data line of axes."""
    return [
        (colors.to_hex(x.get_color()), str(x.get_linestyle()), str(x.get_marker()))
        for axis in axes
        for x in axis.lines
    ]


def test_legend_of_logs_with_different_objectives(tmp_path, drawn):
    logs = [("BiRQ", log_of("anchor", "own")), ("data2vec", log_of("latent"))]
    plots.plot_logs(logs, tmp_path / "x.png")
    assert legend(drawn) == ["BiRQ", "data2vec"]


def log_with_an_end():
    """Log of an objective that stops, and of one that starts then."""
    values = [{"loss_cold": 2.0}, {"loss_main": 1.0}]
    return TrainingLog([1, 2], values, values, values, 1, 2)


def test_objectives_that_stop_are_plotted(tmp_path, runner, drawn):
    plots.plot_logs([("BRIDLE", log_with_an_end())], tmp_path / "x.png")
    run = SimpleNamespace(pretraining=SimpleNamespace(log=log_with_an_end()))
    results = {system.name: {0: run} for system in runner.spec.systems}
    plots._curves(runner, results, "x.png", "curves", ("loss",))
    titles = [[axis.get_title() for axis in one.axes] for one in drawn]
    assert titles == [["loss_cold", "loss_main"]] * 2


def test_codebooks_beside_labels_without_any(drawn):
    """The first panel is of latent prediction, which has no codes."""
    values = {"loss_latent": 1.0, "loss_anchor": 2.0, "pred_ppl_anchor": 5.0}
    codebook_use(TrainingLog([1], [values], [values], [values], 1, 1))
    assert legend(drawn) == ["predictions, a batch"]


def test_styles_of_many_logs():
    drawn = [line_style(number) for number in range(36)]
    assert len({str(style) for style in drawn}) == 36
    assert [style["linestyle"] for style in drawn[:3]] == ["-", "--", "-."]


def test_learning_curves_of_a_matrix(runner, drawn):
    found = {
        system.name: {
            seed: SimpleNamespace(
                pretraining=SimpleNamespace(log=log_of("a" if number % 2 else "b"))
            )
            for seed in (0, 1)
        }
        for number, system in enumerate(runner.spec.systems)
    }
    assert plots._curves(runner, found, "x.png", "curves", ("loss", "acc"))
    assert legend(drawn) == [system.label for system in runner.spec.systems]
    assert len(set(styles(drawn[0].axes))) == SYSTEMS


def test_error_rates_of_a_matrix(runner, drawn):
    run = SimpleNamespace(updates=10, flops=2e12, log=log_of("a"))
    errors = Errors(["u"], np.array([1]), np.array([4]), np.array([0]))
    found = {
        system.name: {
            0: Result(
                run, {("1h" if number < 3 else "10h", "test", "wer"): errors}, None
            )
        }
        for number, system in enumerate(runner.spec.systems)
    }
    assert plots._error_rates(runner, found)
    assert legend(drawn) == [system.label for system in runner.spec.systems]
    assert len(set(styles(drawn[0].axes))) == SYSTEMS


def test_layers_of_a_matrix(runner, drawn):
    found = {
        system.name: {0: Result(None, {}, {"layer_weights": [0.5, 0.5]})}
        for system in runner.spec.systems
    }
    assert plots._layer_weights(runner, found)
    assert legend(drawn) == [system.label for system in runner.spec.systems]
    assert len(set(styles(drawn[0].axes))) == SYSTEMS
