"""Windows of counts, agreement and mutual information, against plain formulas."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch._subclasses.fake_tensor import FakeTensorMode

from espnet2_birq.pretraining.diagnostics import (
    agreement,
    count,
    count_pairs,
    effective_rank,
    mutual_information,
    slide,
    slide_pairs,
)
from espnet2_birq.pretraining.statistics import perplexity


def draw(frames, size, seed=0):
    return torch.randint(size, (frames,), generator=torch.Generator().manual_seed(seed))


def test_counts_are_those_of_valid_rows():
    codes = torch.tensor([3, 1, -1, 3, 0, 3])
    valid = torch.tensor([1.0, 1, 1, 1, 1, 0])
    assert count(codes, 5).tolist() == [1, 1, 0, 3, 0]
    assert count(codes, 5, valid).tolist() == [1, 1, 0, 2, 0]


def test_a_window_of_batches_has_the_perplexity_of_their_union():
    # 50 batches of 100 frames, each of which can use at most 100 of the 1000 codes.
    batches = [draw(100, 1000, seed) for seed in range(50)]
    window = None
    for batch in batches:
        window = slide(window, count(batch, 1000), frames=10_000)
    counts = np.bincount(torch.cat(batches), minlength=1000) / 5000
    expected = np.exp(-(counts[counts > 0] * np.log(counts[counts > 0])).sum())
    assert perplexity(window).item() == pytest.approx(expected, rel=1e-4)
    means = np.mean([perplexity(count(x, 1000)).item() for x in batches])
    assert means < 101 < 800 < expected


def test_a_window_forgets():
    window = None
    for code, batches in ((0, 100), (1, 400)):  # of 100 frames each
        for _ in range(batches):
            window = slide(window, count(torch.full((100,), code), 2), frames=10_000)
        assert window.sum().item() == pytest.approx(10_000, rel=1e-3)
        if code == 0:
            assert perplexity(window).item() == pytest.approx(1.0)
    # Four windows later: exp(-4) of it is left.
    assert window[0].item() == pytest.approx(10_000 * np.exp(-4), rel=0.05)


def test_a_batch_larger_than_the_window_stays_whole():
    window = slide(count(draw(50, 4), 4), count(draw(5000, 4), 4), frames=100)
    assert window.tolist() == count(draw(5000, 4), 4).tolist()


def test_agreement():
    codes = torch.tensor([1, 2, 3, -1, 5, 6])
    others = torch.tensor([1, 0, 3, -1, -1, 6])
    assert [x.item() for x in agreement(codes, others)] == [3, 4]
    valid = torch.tensor([1.0, 1, 1, 1, 1, 0])
    assert [x.item() for x in agreement(codes, others, valid)] == [2, 3]


@pytest.mark.parametrize("size", [16, 4096])  # exact, and hashed
def test_mutual_information(size):
    frames, window, firsts, seconds = 2000, None, [], []
    for seed in range(5):
        first = draw(frames, 40, seed) * (size // 40 or 1) % size
        noise = draw(frames, 3, seed + 100)
        second = torch.where(noise > 0, first * 7 % size, noise)
        firsts.append(first)
        seconds.append(second)
        window = slide_pairs(window, count_pairs(first, second, (size, size)))
    nats, chance = mutual_information(window)
    expected = mutual_info_score(torch.cat(firsts), torch.cat(seconds))
    assert nats.item() == pytest.approx(expected, abs=0.002)
    assert expected > 1
    # A small bias of (V' - 1)(W' - 1) / 2N, of the 40 codes in use
    assert 0 < chance.item() < 0.1


def test_chance_is_what_unrelated_labels_give():
    first, second = draw(20_000, 256, 1), draw(20_000, 256, 2)
    nats, chance = mutual_information(count_pairs(first, second, (256, 256)))
    assert nats.item() == pytest.approx(mutual_info_score(first, second), abs=0.02)
    assert nats > 1  # though there is nothing
    assert (nats - chance).abs() < 0.05


def test_rows_that_fill_up_count_nowhere():
    codes = draw(1000, 8)
    rows = torch.arange(0, 1000, 3)
    valid = torch.zeros(1000)
    valid[rows] = 1
    padded = count_pairs(codes, codes * 3 % 8, (8, 8), valid)
    alone = count_pairs(codes[rows], codes[rows] * 3 % 8, (8, 8))
    for one, other in zip(padded, alone):
        assert torch.equal(one, other)
    assert padded.apart.sum() == len(rows)


def test_an_empty_batch():
    nothing = count_pairs(draw(10, 8), draw(10, 8), (8, 8), torch.zeros(10))
    assert all(x.sum() == 0 for x in nothing)
    assert [x.item() for x in mutual_information(nothing)] == [0, 0]


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_effective_rank_is_rankme(scale):
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((500, 12)) * scale ** np.linspace(0, 1, 12)
    vectors = vectors.astype(np.float32) + 0.5
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(torch.from_numpy(vectors)).item() == pytest.approx(expected)


def test_effective_rank_at_its_ends():
    assert effective_rank(torch.eye(7).repeat(3, 1)).item() == pytest.approx(7.0)
    assert effective_rank(torch.ones(30, 5)).item() == pytest.approx(1.0, abs=1e-4)


def test_nothing_asks_a_device_for_a_value():
    """Fake tensors have no values: whatever reads one raises (see test_no_waiting)."""
    with FakeTensorMode():
        codes, valid = torch.randint(8192, (1000,)), torch.ones(1000)
        window = pairs = None
        for _ in range(2):
            window = slide(window, count(codes, 8192, valid))
            batch = count_pairs(codes, codes, (8192, 8192), valid)
            pairs = slide_pairs(pairs, batch)
        values = [perplexity(window), *mutual_information(pairs)]
        values += agreement(codes, codes, valid)
        values.append(effective_rank(torch.randn(50, 8)))
        assert all(value.shape == () for value in values)
