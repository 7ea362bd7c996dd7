"""Error rates over seeds and speakers."""

import numpy as np
import pytest

from espnet2_birq.evaluation.wer.experiments import find_sets
from espnet2_birq.experiments.results import Errors, own_decodings, resample


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


def test_decodings_made_by_hand_are_left_out(tmp_path):
    """A beam search of one system is not compared with the others' greedy search."""
    own = "greedy_ctc_valid.cer_ctc.ave"
    for decoding in ("ctc_4gram", own, "inference_asr_model_valid.acc.ave"):
        for name in ("test", "org/valid"):
            (tmp_path / decoding / name / "score_wer").mkdir(parents=True)
    (tmp_path / "tagged" / "other" / "score_wer").mkdir(parents=True)
    found = own_decodings(find_sets(tmp_path))
    assert {(one.decoding, one.name) for one in found} == {
        (own, "test"), (own, "org/valid"), ("tagged", "other")
    }  # fmt: skip
