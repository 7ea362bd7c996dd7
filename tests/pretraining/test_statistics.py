"""Statistics on cases whose values are known."""

import math

import torch

from espnet2_birq.pretraining.diagnostics import Windows
from espnet2_birq.pretraining.losses.cross_entropy import SUMS, Tally
from espnet2_birq.pretraining.statistics import (
    BookTally,
    coverage,
    objective_statistics,
    perplexity,
)


def test_perplexity_and_coverage():
    assert math.isclose(perplexity(torch.tensor([5.0, 5, 5, 0])), 3, rel_tol=1e-6)
    assert math.isclose(perplexity(torch.tensor([9.0, 0, 0, 0])), 1, rel_tol=1e-6)
    assert math.isclose(coverage(torch.tensor([5.0, 1, 0, 0])), 0.5)
    both = perplexity(torch.tensor([[1.0, 1, 0], [1, 1, 1]]))
    assert torch.allclose(both, torch.tensor([2.0, 3.0]))


def test_levels_of_several_masked_copies():
    def book(acc):
        sums = torch.zeros(1, len(SUMS))
        sums[:, SUMS.index("acc")] = acc
        counts = torch.ones(1, 4)
        return BookTally(["rvq"], [False], Tally(torch.ones(1), sums, counts, counts))

    windows = Windows()
    books = [book(0.1), book(0.2), book(0.3), book(0.4)]  # two levels, two copies
    stats = objective_statistics(books, windows=windows, by_level=["rvq"], copies=2)
    levels = {key: float(x) for key, x in stats.items() if key.startswith("level")}
    assert levels.keys() == {
        f"level{n}_{x}_rvq" for n in (1, 2) for x in ("acc", "ppl")
    }
    assert math.isclose(levels["level1_acc_rvq"], 0.2, rel_tol=1e-6)
    assert math.isclose(levels["level2_acc_rvq"], 0.3, rel_tol=1e-6)
    assert math.isclose(stats["acc_rvq"], 0.25, rel_tol=1e-6)


def test_an_objective_without_a_labelled_frame_has_no_figures():
    """NaN, which ESPnet's averages over steps leave out, and not a loss of 0."""
    sums, counts = torch.ones(2, len(SUMS)), torch.ones(2, 4)
    sums[1], counts[1] = 0.0, 0.0
    tally = Tally(torch.tensor([4.0, 0.0]), sums, counts, counts)
    windows = Windows()
    windows.add("labels", 1, torch.ones(4))
    stats = objective_statistics(
        [BookTally(["anchor", "labels"], [False, False], tally)], windows=windows
    )
    for key in ("loss", "acc", "label_ppl", "label_cov", "pred_ppl", "pred_cov"):
        assert stats[f"{key}_labels"].isnan() and stats[f"{key}_anchor"].isfinite(), key
    assert math.isclose(stats["window_ppl_labels"], 4.0, rel_tol=1e-6)


def test_objectives_of_several_books_are_averaged():
    def tally(loss, agree, codes):
        sums = torch.zeros(2, len(SUMS))
        sums[:, SUMS.index("loss")] = torch.tensor([loss, 2 * loss])
        sums[:, SUMS.index("grad_square")] = torch.tensor([9.0, 1.0])
        sums[1, SUMS.index("both")] = 2.0
        sums[1, SUMS.index("agree")] = agree
        counts = torch.zeros(2, 4)
        counts[:, :codes] = 2.0
        return Tally(torch.tensor([4.0, 2.0]), sums, counts, counts)

    books = [
        BookTally(["anchor", "enhanced"], [False, True], tally(4.0, 1.0, 2)),
        BookTally(["anchor", "enhanced"], [False, True], tally(8.0, 2.0, 4)),
    ]
    stats = objective_statistics(books)
    assert stats["loss_anchor"] == 1.5  # (4 / 4 + 8 / 4) / 2
    assert stats["loss_enhanced"] == 6.0  # (8 / 2 + 16 / 2) / 2
    assert stats["agree_enhanced"] == 0.75 and "agree_anchor" not in stats
    assert math.isclose(stats["label_ppl_anchor"], 3.0, rel_tol=1e-6)
    assert math.isclose(stats["label_cov_anchor"], 0.75, rel_tol=1e-6)
    # roots of 18 and 2: three to one
    assert math.isclose(stats["grad_share_anchor"], 0.75, rel_tol=1e-6)
    assert "hit_enhanced" in stats and "hit_anchor" not in stats
    assert "grad_share_anchor" not in objective_statistics(books, gradients=False)
