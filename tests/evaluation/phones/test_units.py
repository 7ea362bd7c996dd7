"""PNMI and perplexity by their formulas, and in limiting cases."""

import numpy as np
import pytest

from espnet2_birq.evaluation.phones.units import entropy, kmeans_units, score_units


def by_formula(phones, units):
    """I(phone; unit) / H(phone), from the matrix of counts."""
    counts = np.zeros((phones.max() + 1, units.max() + 1))
    np.add.at(counts, (phones, units), 1)
    joint = counts / counts.sum()
    p, u = joint.sum(axis=1), joint.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.nansum(joint * np.log(joint / np.outer(p, u)))
        return information / -np.nansum(p * np.log(p)), np.exp(
            -np.nansum(u * np.log(u))
        )


@pytest.mark.parametrize("number", [3, 50, 3000])
def test_pnmi_is_that_of_the_formula(number):
    generator = np.random.default_rng(0)
    phones = generator.integers(7, size=4000) ** 2 % 11
    units = (generator.integers(number, size=4000) + 5 * phones) % number
    scores = score_units(phones, units)
    assert (scores.pnmi, scores.perplexity) == pytest.approx(by_formula(phones, units))


def test_units_that_are_phones_tell_all():
    phones = np.random.default_rng(0).integers(5, size=1000)
    scores = score_units(phones, 99 - 3 * phones)
    assert scores.pnmi == pytest.approx(1.0)
    assert scores.perplexity == pytest.approx(np.exp(entropy(phones)))


def test_units_without_a_relation_are_at_chance():
    generator = np.random.default_rng(0)
    phones = generator.integers(10, size=5000)
    units = generator.integers(1000, size=5000)
    scores = score_units(phones, units)
    # PNMI is high with so many units, but no higher than chance.
    assert scores.pnmi > 0.25
    assert scores.pnmi == pytest.approx(scores.chance, abs=0.01)


def test_one_phone_alone():
    with pytest.raises(ValueError, match="one phone"):
        score_units(np.zeros(5, int), np.arange(5))


def test_kmeans_finds_clusters_again():
    generator = np.random.default_rng(0)
    which = generator.integers(4, size=2000)
    features = 20.0 * np.eye(4)[which] + generator.standard_normal((2000, 4))
    units = kmeans_units(features.astype(np.float32), 4, seed=0)
    assert score_units(which, units).pnmi == pytest.approx(1.0)
    assert (units == kmeans_units(features.astype(np.float32), 4, seed=0)).all()
