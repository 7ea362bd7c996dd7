"""Statistics on cases whose values are known."""

import math

import torch

from espnet2_birq.ssl.quantizer import Labels
from espnet2_birq.ssl.statistics import coverage, perplexity, target_statistics


def test_perplexity_and_coverage():
    assert math.isclose(perplexity(torch.tensor([5.0, 5, 5, 0])), 3, rel_tol=1e-6)
    assert math.isclose(perplexity(torch.tensor([9.0, 0, 0, 0])), 1, rel_tol=1e-6)
    assert math.isclose(coverage(torch.tensor([5.0, 1, 0, 0])), 0.5)


def test_statistics_of_a_known_batch():
    logits = torch.eye(4)[[0, 1, 2, 2]] * 10.0  # predictions 0 1 2 2
    codes = torch.tensor([0, 1, 2, 3])
    stats = target_statistics(torch.tensor(1.5), logits, Labels(codes, None, codes))
    assert stats["acc"] == 0.75
    assert math.isclose(stats["label_ppl"], 4, rel_tol=1e-6)
    assert stats["label_cov"] == 1.0
    assert math.isclose(stats["pred_ppl"], 2**1.5, rel_tol=1e-6)
    assert stats["pred_cov"] == 0.75
    assert stats["label_entropy"] == 0.0 and stats["hit"] == 1.0
    assert stats["loss"] == 1.5


def test_soft_labels_have_an_entropy_and_can_miss():
    probs = torch.full((2, 4), 0.25)
    labels = Labels(torch.tensor([0, 1]), probs, torch.tensor([0, 2]))
    stats = target_statistics(torch.tensor(0.0), torch.randn(2, 4), labels)
    assert math.isclose(stats["label_entropy"], math.log(4), rel_tol=1e-6)
    assert stats["hit"] == 0.5
