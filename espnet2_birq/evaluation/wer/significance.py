"""Confidence intervals and significance tests of error rates: bootstrap and MAPSSWE.

The bootstrap resamples clusters (speakers, meetings) instead of utterances if errors of
a speaker are correlated: Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR
performance evaluation", ICASSP 2004; Liu & Peng, arXiv 1912.09508, on its blocks. The
matched-pairs test is of Gillick & Cox, "Some statistical issues in the comparison of
speech recognition algorithms", ICASSP 1989, with the segments of NIST's sc_stats.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import erfc, nan, sqrt
from typing import NamedTuple

import numba
import numpy as np

from espnet2_birq.evaluation.wer.alignment import (
    DELETION,
    INSERTION,
    SUBSTITUTION,
)

_ENDS = (0.025, 0.975)  # quantiles between which 95 % lie
_MIN_GOOD = 2  # words that both systems have right end a segment


class Difference(NamedTuple):
    """Difference of two error rates, B less A.

    Attributes:
        low: Lower end of its interval, errors per reference token.
        high: Upper end.
        p: Probability of a difference as far from 0 if there were none, two-sided.
    """

    low: float
    high: float
    p: float


class MatchedPairs(NamedTuple):
    """Result of the matched-pairs sentence-segment word error test.

    Attributes:
        segments: How many segments have an error of either system.
        mean: Errors of A less those of B, mean over the segments.
        z: Mean over its standard error; positive if B is better. nan without spread.
        p: Two-sided, of the normal distribution; nan without spread.
    """

    segments: int
    mean: float
    z: float
    p: float


def bootstrap_draws(
    *sizes: int, draws: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, ...]]:
    """Draw with replacement, of one or more kinds of things as many as there are.

    Args:
        sizes: Number of things of each kind, as clusters, or seeds and utterances.
        draws: Number of draws.
        seed: Seed of the draws.

    Yields:
        For each size n, shape (n,), the numbers that are drawn, 0 to n - 1.
    """
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        yield tuple(generator.integers(size, size=size) for size in sizes)


def interval_ends(values: Sequence | np.ndarray) -> np.ndarray:
    """Return the ends of the interval that holds 95 % of resampled values.

    Args:
        values: Resampled values, shape (draws, ...).

    Returns:
        Lower and upper end, shape (2, ...).
    """
    return np.quantile(values, _ENDS, axis=0)


def bootstrap_interval(
    errors: np.ndarray,
    tokens: np.ndarray,
    clusters: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Estimate a confidence interval of the error rate by resampling clusters.

    It assumes independent clusters, so it is too narrow if there are few,
    and does not cover the variation between training runs.

    Args:
        errors: Of each utterance, shape (N,).
        tokens: Of each utterance's reference, shape (N,).
        clusters: Number of each utterance's cluster, from 0, shape (N,).
        resamples: How many corpora of the same number of clusters are drawn.
        seed: Seed of the draws.

    Returns:
        Lower and upper end, as percentiles; errors per reference token. nan and nan
        with fewer than two clusters, or without any token.
    """
    rates = _resampled_rates([errors], tokens, clusters, resamples, seed)
    if not rates.size:
        return nan, nan
    low, high = interval_ends(rates[0])
    return float(low), float(high)


def bootstrap_difference(
    errors_a: np.ndarray,
    errors_b: np.ndarray,
    tokens: np.ndarray,
    clusters: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two systems on the same utterances by resampling clusters.

    Both systems are scored on each resample of clusters, so the common difficulty of a
    speaker cancels.

    Args:
        errors_a: System A's of each utterance, shape (N,).
        errors_b: System B's.
        tokens: Of each utterance's reference, shape (N,).
        clusters: Number of each utterance's cluster, from 0, shape (N,).
        resamples: How many corpora are drawn.
        seed: Seed of the draws.

    Returns:
        Interval and p of the difference B less A; the least p is 2 / (resamples + 1).
        All nan with fewer than two clusters, or without any token.
    """
    rates = _resampled_rates([errors_a, errors_b], tokens, clusters, resamples, seed)
    if not rates.size:
        return Difference(nan, nan, nan)
    difference = rates[1] - rates[0]
    low, high = interval_ends(difference)
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(difference) + 1))
    return Difference(float(low), float(high), float(p))


def _resampled_rates(
    errors: list[np.ndarray],
    tokens: np.ndarray,
    clusters: np.ndarray,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Error rates of each system in each draw that has a token, shape (systems, R)."""
    number = int(clusters.max(initial=-1)) + 1
    if number < 2:
        return np.zeros((len(errors), 0))
    sums = np.stack(
        [np.bincount(clusters, one, minlength=number) for one in (*errors, tokens)]
    )
    draws = bootstrap_draws(number, draws=resamples, seed=seed)
    *wrong, length = np.array([sums[:, picked].sum(axis=1) for (picked,) in draws]).T
    # A draw of utterances without any token has no error rate.
    kept = length > 0
    return np.stack([one[kept] / length[kept] for one in wrong])


def mapsswe(
    steps_a: Iterable[np.ndarray], steps_b: Iterable[np.ndarray]
) -> MatchedPairs:
    """Test whether two systems make equally many errors in a segment.

    Segments are independent of each other if at least two words between them are right
    in both systems; words that are right in both are in no segment otherwise.

    Args:
        steps_a: System A's alignment of each utterance, as of alignment.align_all().
        steps_b: System B's, with the same references.

    Returns:
        The test's result.
    """
    parts = [
        segment_errors(one, other) for one, other in zip(steps_a, steps_b, strict=True)
    ]
    errors = np.concatenate([np.zeros((0, 2), dtype=np.int64), *parts])
    difference = errors[:, 0] - errors[:, 1]
    number = len(difference)
    mean = float(difference.mean()) if number else 0.0
    spread = float(difference.std(ddof=1)) if number > 1 else 0.0
    if not spread:
        return MatchedPairs(number, mean, nan, nan)
    z = mean / (spread / sqrt(number))
    return MatchedPairs(number, mean, z, erfc(abs(z) / sqrt(2)))


@numba.njit(cache=True)
def segment_errors(steps_a: np.ndarray, steps_b: np.ndarray) -> np.ndarray:
    """Cut an utterance into segments and count the errors in each.

    Args:
        steps_a: System A's alignment.
        steps_b: System B's alignment with the same reference.

    Returns:
        Errors of A and of B in each segment that has any, int64, shape (segments, 2).
    """
    found = np.zeros((len(steps_a) + len(steps_b), 2), dtype=np.int64)
    number = good = i = j = 0
    is_open = False
    while True:
        # Insertions stand before a word of the reference, or at the end.
        while i < len(steps_a) and steps_a[i] == INSERTION:
            found[number, 0] += 1
            is_open, good = True, 0
            i += 1
        while j < len(steps_b) and steps_b[j] == INSERTION:
            found[number, 1] += 1
            is_open, good = True, 0
            j += 1
        if i == len(steps_a) or j == len(steps_b):
            break
        wrong_a = steps_a[i] == SUBSTITUTION or steps_a[i] == DELETION
        wrong_b = steps_b[j] == SUBSTITUTION or steps_b[j] == DELETION
        i, j = i + 1, j + 1
        if wrong_a or wrong_b:
            found[number, 0] += wrong_a
            found[number, 1] += wrong_b
            is_open, good = True, 0
        else:
            good += 1
            if is_open and good == _MIN_GOOD:
                number, is_open = number + 1, False
    return found[: number + is_open]
