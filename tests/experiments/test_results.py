"""Error rates over seeds and speakers."""

import numpy as np
import pytest

from espnet2_birq.experiments.results import Errors, resample


def make(errors, tokens, speakers=None):
    names = [str(number) for number in range(len(tokens))]
    clusters = np.arange(len(tokens)) if speakers is None else speakers
    return Errors(names, np.array(errors), np.array(tokens), clusters)


def test_rate_is_the_mean_over_seeds():
    tokens = [10, 30]
    score = resample([make([1, 3], tokens), make([3, 5], tokens)])
    assert score["percent"] == pytest.approx(100 * 6 / 40)
    assert score["low"] <= score["percent"] <= score["high"]


def test_interval_of_a_difference_against_a_slow_bootstrap():
    generator = np.random.default_rng(1)
    tokens = generator.integers(5, 30, size=40)
    speakers = np.arange(40) // 5
    own, other = (
        [make(generator.binomial(tokens, rate), tokens, speakers) for _ in range(3)]
        for rate in (0.3, 0.45)
    )
    score = resample(own, other, draws=20000)
    draws = []
    for _ in range(20000):
        seeds = generator.choice(3, size=3)
        drawn = generator.choice(8, size=8)
        utterances = np.concatenate([np.flatnonzero(speakers == one) for one in drawn])
        wrong = sum((own[s].errors - other[s].errors)[utterances].sum() for s in seeds)
        draws.append(100 * wrong / 3 / tokens[utterances].sum())
    assert score["low"] == pytest.approx(np.percentile(draws, 2.5), abs=0.3)
    assert score["high"] == pytest.approx(np.percentile(draws, 97.5), abs=0.3)
    assert score["high"] < 0


def test_same_system_differs_by_nothing():
    one = [make([1, 2], [3, 4])]
    assert resample(one, one) == dict(percent=0, low=0, high=0)


def test_other_utterances_are_not_compared():
    one = make([1], [2])
    with pytest.raises(ValueError, match="different utterances"):
        resample([one], [one._replace(names=["another"])])
