"""A collapse is reported within 100 steps, and stops training if requested."""

import logging

import pytest
import torch

from espnet2_birq.pretraining.collapse import CollapseError, CollapseWatch
from espnet2_birq.pretraining.objective import build_objective, parse_objectives


def watch_of(*names, codes=256, **options):
    rows = [
        {"name": x, "view": "input", "labeller": "random_projection"} for x in names
    ]
    for row in rows:
        row["labeller_conf"] = {"codebook_size": codes}
    objectives = [build_objective(row, 8) for row in parse_objectives(rows, 4)]
    return CollapseWatch(objectives, **options)


def watch_for(steps, perplexity, **options):
    watch = watch_of("anchor", "enhanced", **options)
    for _ in range(steps):
        watch.watch(
            {
                "window_ppl_anchor": torch.tensor(100.0),
                "window_ppl_enhanced": torch.tensor(perplexity),
            }
        )


def test_a_collapse_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        watch_for(100, 1.2)
    assert len(caplog.messages) == 2
    assert "objective 'enhanced' has collapsed" in caplog.messages[0]
    caplog.clear()
    watch_for(200, 30.0)
    assert not caplog.messages


def test_or_an_error():
    with pytest.raises(CollapseError, match="labels 1.2"):
        watch_for(100, 1.2, stop=True)
    watch_for(100, 30.0, stop=True)


@pytest.mark.parametrize("size, least", [(2, 1), (4, 2), (7, 3.5), (8, 4), (8192, 4)])
def test_a_small_codebook_need_not_have_four_codes_in_use(size, least):
    watch = watch_of("states", codes=size, stop=True)
    for _ in range(50):
        watch.watch({"window_ppl_states": torch.tensor(float(least))})
    with pytest.raises(CollapseError, match="'states' has collapsed"):
        for _ in range(50):
            watch.watch({"window_ppl_states": torch.tensor(0.99 * least)})


def test_labels_that_are_made_in_some_steps_only(caplog):
    watch = watch_of("anchor", "enhanced")
    with caplog.at_level(logging.WARNING):
        for step in range(100):
            stats = {"window_ppl_anchor": torch.tensor(100.0)}
            if step % 4 == 0:
                stats["window_ppl_enhanced"] = torch.tensor(1.2)
            watch.watch(stats)
    assert len(caplog.messages) == 2
    assert "labels 1.2 over" in caplog.messages[0]


def test_each_remedy_is_one_that_the_labeller_takes():
    layer = {"view": "teacher layer", "labeller_conf": {"codebook_size": 8}}
    for labeller, words in (
        ("random_projection", "projection: whitened"),
        ("gumbel_softmax", "projection: whitened"),
        ("residual", "raise reseed"),
        ("given", "look at the labels on disk"),
    ):
        row = {**layer, "name": "x", "labeller": labeller}
        if labeller == "given":
            row["view"] = "labels"
        (row,) = parse_objectives([row], 4)
        watch = CollapseWatch([build_objective(row, 8)], stop=True)
        with pytest.raises(CollapseError, match=words):
            for _ in range(50):
                watch.watch({"window_ppl_x": torch.tensor(1.0)})


def test_the_state_of_an_older_version_is_left_out():
    watch = watch_of("anchor", stop=True)
    watch.restore((49, {"label_ppl_anchor": (torch.tensor(49.0), 49)}))
    watch.watch({"window_ppl_anchor": torch.tensor(30.0)})
    assert watch.state() == (0, {})


def test_steps_without_a_labelled_frame_do_not_count():
    row = {"name": "latent", "view": "teacher layer", "labeller": "latent"}
    (row,) = parse_objectives([row], 4)
    watch = CollapseWatch([build_objective(row, 8)], stop=True)
    for step in range(100):
        value = float("nan") if step % 2 else 0.11
        watch.watch({"target_std_latent": torch.tensor(value)})


def test_a_perplexity_that_is_no_number_is_no_health(caplog):
    with caplog.at_level(logging.WARNING):
        watch_for(50, float("nan"))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "key, bad, good, words",
    [
        (
            "target_std",
            0.05,
            0.2,
            "its targets' standard deviation over frames was 0.050",
        ),
        ("pred_std", 0.005, 0.02, "its predictions' standard deviation .* was 0.0050"),
    ],
)
def test_vectors_that_hardly_differ(key, bad, good, words):
    row = {"name": "latent", "view": "teacher layer", "labeller": "latent"}
    (row,) = parse_objectives([row], 4)
    watch = CollapseWatch([build_objective(row, 8)], stop=True)
    for _ in range(50):
        watch.watch({f"{key}_latent": torch.tensor(good)})
    with pytest.raises(CollapseError, match=f"'latent' has collapsed: {words}"):
        for _ in range(50):
            watch.watch({f"{key}_latent": torch.tensor(bad)})
