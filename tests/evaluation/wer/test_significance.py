"""Bootstrap and matched pairs against theory, slow versions and NIST's sc_stats."""

import re
import subprocess

import numpy as np
import pytest
from nist import SC_STATS, needs_nist, random_set, run_sclite
from scipy.stats import norm, ttest_1samp

from espnet2_birq.evaluation.wer.alignment import align_all
from espnet2_birq.evaluation.wer.significance import (
    bootstrap_difference,
    bootstrap_draws,
    bootstrap_interval,
    mapsswe,
    segment_errors,
)
from espnet2_birq.evaluation.wer.transcripts import fold_case


def test_interval_of_utterances():
    rng = np.random.default_rng(3)
    errors = rng.binomial(10, 0.2, 400)
    tokens = np.full(400, 10)
    low, high = bootstrap_interval(errors, tokens, np.arange(400))
    assert (low, high) == bootstrap_interval(errors, tokens, np.arange(400))
    assert (low, high) != bootstrap_interval(errors, tokens, np.arange(400), seed=1)
    # As for a mean of 4000 tosses: 0.2 +- 1.96 * sqrt(0.2 * 0.8 / 4000).
    rate = errors.sum() / 4000
    assert low == pytest.approx(rate - 0.0124, abs=0.002)
    assert high == pytest.approx(rate + 0.0124, abs=0.002)


def test_interval_of_clusters():
    """If all utterances of a speaker are equal, only the number of speakers counts."""
    rng = np.random.default_rng(0)
    errors = np.repeat(rng.binomial(10, 0.2, 100), 25)
    tokens, clusters = np.full(2500, 10), np.repeat(np.arange(100), 25)
    low, high = bootstrap_interval(errors, tokens, clusters)
    once = bootstrap_interval(errors[::25], tokens[::25], np.arange(100))
    assert (low, high) == pytest.approx(once)
    narrow = bootstrap_interval(errors, tokens, np.arange(2500))
    assert high - low > 4 * (narrow[1] - narrow[0])


def test_draws_are_the_same_again_and_those_of_numpy():
    draws = list(bootstrap_draws(3, 50, draws=20, seed=7))
    assert {(len(few), len(many)) for few, many in draws} == {(3, 50)}
    rng = np.random.default_rng(7)
    for few, many in draws:
        np.testing.assert_array_equal(few, rng.integers(3, size=3))
        np.testing.assert_array_equal(many, rng.integers(50, size=50))


def test_intervals_that_cannot_be():
    same = np.full(5, 1), np.full(5, 4)
    assert bootstrap_interval(*same, np.arange(5)) == (0.25, 0.25)
    assert np.isnan(bootstrap_interval(*same, np.zeros(5, int))).all()
    # Draws with only the first cluster have no error rate.
    interval = bootstrap_interval(np.array([0, 1]), np.array([0, 2]), np.arange(2))
    assert interval == (0.5, 0.5)


def test_difference_is_of_the_same_draws():
    rng = np.random.default_rng(1)
    tokens, clusters = np.full(200, 50), np.arange(200)
    hard = rng.binomial(50, rng.uniform(0.05, 0.6, 200))  # speakers differ greatly
    better = hard - rng.binomial(1, 0.5, 200)  # half an error less on average
    result = bootstrap_difference(hard, better, tokens, clusters, resamples=2000)
    assert result.high < 0 and result.p == pytest.approx(2 / 2001)
    assert result.low == pytest.approx(-0.01 - 1.96 * 0.01 / 200**0.5, abs=0.0005)
    back = bootstrap_difference(better, hard, tokens, clusters, resamples=2000)
    assert (back.low, back.high) == pytest.approx((-result.high, -result.low))
    none = bootstrap_difference(hard, hard, tokens, clusters, resamples=100)
    assert none == (0, 0, 1)


def test_p_of_equal_systems_is_uniform():
    ps = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = rng.poisson(3, (2, 60))
        both = bootstrap_difference(a, b, np.full(60, 30), np.arange(60), 200)
        ps.append(both.p)
    assert 0.01 < np.mean(np.array(ps) < 0.05) < 0.11
    assert 0.4 < np.mean(np.array(ps) < 0.5) < 0.6


def slow_segments(steps_a, steps_b):
    """Segments by splitting a string: one letter for each word and gap."""
    gaps, words = [], []
    for steps in (steps_a, steps_b):
        text = "".join(map(str, steps))
        parts = re.findall(r"(3*)([0124]|$)", text)
        gaps.append([len(gap) for gap, word in parts if gap or word])
        words.append([word in ("1", "2") for _, word in parts if word])
    number = len(words[0])
    for one in gaps:
        one += [0] * (number + 1 - len(one))
    letters, errors = "", []
    for k in range(number + 1):
        if gaps[0][k] or gaps[1][k]:
            letters += "x"
            errors.append((gaps[0][k], gaps[1][k]))
        if k < number:
            letters += "x" if words[0][k] or words[1][k] else "g"
            errors.append((int(words[0][k]), int(words[1][k])))
    return [
        np.sum(errors[match.start() : match.end()], axis=0).tolist()
        for match in re.finditer(r"x(g?x)*", letters)
    ]


def two_systems(number):
    refs, a = random_set(number, 6)
    other = random_set(number, 7)[1]
    # B is correct where another draw is short, and equal to A elsewhere.
    b = {u: refs[u] if len(other[u]) < 40 else text for u, text in a.items()}
    fold = [[fold_case(text) for text in side.values()] for side in (refs, a, b)]
    return (refs, a, b), align_all(fold[0], fold[1]), align_all(fold[0], fold[2])


def test_segments_are_those_of_a_slow_version():
    _, steps_a, steps_b = two_systems(400)
    several = 0
    for one, other in zip(steps_a, steps_b, strict=True):
        found = segment_errors(one, other).tolist()
        assert found == slow_segments(one, other)
        several += len(found) > 1
    assert several > 100


def test_segment_boundaries():
    # One correct word between two errors joins them, two separate them.
    one, right = np.array([1, 0, 1, 0, 0, 2], np.uint8), np.zeros(6, np.uint8)
    assert segment_errors(one, right).tolist() == [[2, 0], [1, 0]]
    # An insertion at the end of one system only.
    assert segment_errors(right, np.array([0] * 6 + [3], np.uint8)).tolist() == [[0, 1]]
    assert segment_errors(right, right).tolist() == []
    assert segment_errors(right[:0], right[:0]).tolist() == []


def test_mapsswe_without_spread():
    right, wrong = np.zeros(1, np.uint8), np.ones(1, np.uint8)
    assert mapsswe([right], [right]).segments == 0
    assert np.isnan(mapsswe([wrong] * 3, [right] * 3).z)


def test_mapsswe_is_a_two_sided_z_test():
    """Of the segments' differences, with the unbiased variance of Gillick and Cox."""
    kinds = {
        "both": [0, 0],
        "a": [2, 0],
        "a twice": [3, 1],
        "b": [0, 1],
        "equal": [1, 1],
    }
    drawn = ["a"] * 4 + ["a twice"] * 2 + ["b"] * 3 + ["equal", "both"]

    def steps(system):
        """Return an alignment: errors of a segment, then two correct words."""
        rows = []
        for kind in drawn:
            wrong = np.arange(3) < kinds[kind][system]
            rows.append(np.append(wrong, [False, False]).astype(np.uint8))
        return rows

    difference = [kinds[kind][0] - kinds[kind][1] for kind in drawn if kind != "both"]
    found = mapsswe(steps(0), steps(1))
    assert found.segments == len(difference) == 10
    assert found.mean == pytest.approx(np.mean(difference))
    error = np.std(difference, ddof=1) / np.sqrt(len(difference))
    assert found.z == pytest.approx(np.mean(difference) / error)
    assert found.z == pytest.approx(ttest_1samp(difference, 0).statistic)
    assert found.p == pytest.approx(2 * norm.sf(found.z)) and 0.01 < found.p < 0.2
    back = mapsswe(steps(1), steps(0))
    assert (back.z, back.p) == pytest.approx((-found.z, found.p))


@needs_nist
def test_mapsswe_as_nist(tmp_path):
    (refs, a, b), steps_a, steps_b = two_systems(1000)
    piped = ""
    for name, hyps in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        piped += run_sclite(tmp_path / name, refs, hyps, output=("sgml", "stdout"))
    report = subprocess.run(
        [SC_STATS, "-p", "-t", "mapsswe", "-v", "-n", "-"],
        input=piped,
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout
    found = re.search(r"# segs: (\d+)\).*mean: *(\S+)\).*Z Stat: *(\S+)\)", report)
    segments, mean, z = int(found[1]), float(found[2]), float(found[3])
    ours = mapsswe(steps_a, steps_b)
    assert ours.segments == segments > 1000
    assert ours.mean == pytest.approx(mean, abs=6e-4)
    assert ours.z == pytest.approx(z, abs=6e-4) and z > 2
