"""A collapse is reported within 100 steps, and stops training if requested."""

import logging

import pytest
import torch

from espnet2_birq.pretraining.collapse import CollapseError, CollapseWatch


def watch_for(steps, perplexity, **options):
    watch = CollapseWatch({"anchor": 256, "enhanced": 256}, **options)
    for _ in range(steps):
        watch.watch(
            {
                "label_ppl_anchor": torch.tensor(100.0),
                "label_ppl_enhanced": torch.tensor(perplexity),
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
    watch = CollapseWatch({"states": size}, stop=True)
    for _ in range(50):
        watch.watch({"label_ppl_states": torch.tensor(float(least))})
    with pytest.raises(CollapseError, match="'states' has collapsed"):
        for _ in range(50):
            watch.watch({"label_ppl_states": torch.tensor(0.99 * least)})


def test_labels_that_are_made_in_some_steps_only(caplog):
    watch = CollapseWatch({"anchor": 256, "enhanced": 256})
    with caplog.at_level(logging.WARNING):
        for step in range(100):
            stats = {"label_ppl_anchor": torch.tensor(100.0)}
            if step % 4 == 0:
                stats["label_ppl_enhanced"] = torch.tensor(1.2)
            watch.watch(stats)
    assert len(caplog.messages) == 2
    assert "labels 1.2 over" in caplog.messages[0]


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
    watch = CollapseWatch({"latent": 0}, stop=True)
    for _ in range(50):
        watch.watch({f"{key}_latent": torch.tensor(good)})
    with pytest.raises(CollapseError, match=f"'latent' has collapsed: {words}"):
        for _ in range(50):
            watch.watch({f"{key}_latent": torch.tensor(bad)})
