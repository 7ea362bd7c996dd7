"""Confidence intervals and significance tests of error rates: bootstrap and MAPSSWE.

The bootstrap resamples clusters (speakers, meetings) instead of utterances if a speaker's
errors are correlated: see Bisani & Ney, "Bootstrap estimates for confidence intervals in
ASR performance evaluation", ICASSP 2004, and Liu & Peng, arXiv 1912.09508, on blocks. The
matched-pairs test is that of Gillick & Cox, "Some statistical issues in the comparison of
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

_ENDS = (0.025, 0.975)  # quantiles of a 95 % interval
_MIN_GOOD = 2  # consecutive words correct in both systems that end a segment


class Difference(NamedTuple):
    """Difference of two error rates, B minus A.

    Attributes:
        low: Lower end of its interval, in errors per reference token.
        high: Upper end of its interval, in errors per reference token.
        p: Two-sided p-value of the hypothesis of no difference.
    """

    low: float
    high: float
    p: float


class MatchedPairs(NamedTuple):
    """Result of the matched-pairs sentence-segment word error test.

    Attributes:
        segments: Number of segments with an error of either system.
        mean: Mean over segments of A's errors minus B's errors.
        z: Mean divided by its standard error; positive if B is better; nan without
            variance.
        p: Two-sided p-value from the normal distribution; nan without variance.
    """

    segments: int
    mean: float
    z: float
    p: float


def bootstrap_draws(
    *sizes: int, draws: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, ...]]:
    """Draw bootstrap resamples of one or more kinds of items.

    Args:
        sizes: Number of items of each kind, such as clusters, or seeds and utterances.
        draws: Number of resamples.
        seed: Random seed.

    Yields:
        For each size n, the drawn indices from 0 to n - 1, shape (n,).
    """
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        yield tuple(generator.integers(size, size=size) for size in sizes)


def interval_ends(values: Sequence | np.ndarray) -> np.ndarray:
    """Return the ends of the 95 % interval of resampled values.

    Args:
        values: Resampled values, shape (draws, ...).

    Returns:
        Lower and upper ends, shape (2, ...).
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

    It assumes independent clusters. It is too narrow for few clusters, and does not
    cover the variation between training runs.

    Args:
        errors: Errors of each utterance, shape (N,).
        tokens: Reference tokens of each utterance, shape (N,).
        clusters: Cluster index of each utterance, from 0, shape (N,).
        resamples: Number of resamples; each has as many clusters as the set.
        seed: Random seed.

    Returns:
        Lower and upper percentile, in errors per reference token. Both are nan with
        fewer than two clusters or without tokens.
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

    Both systems are scored on the same resamples, so effects of difficult speakers
    cancel.

    Args:
        errors_a: Errors of system A in each utterance, shape (N,).
        errors_b: Errors of system B in each utterance, shape (N,).
        tokens: Reference tokens of each utterance, shape (N,).
        clusters: Cluster index of each utterance, from 0, shape (N,).
        resamples: Number of resamples.
        seed: Random seed.

    Returns:
        Interval and p of the difference B minus A; the smallest possible p is
        2 / (resamples + 1). All are nan with fewer than two clusters or without tokens.
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
    """Compute error rates (systems, R) of R resamples that have a reference token."""
    number = int(clusters.max(initial=-1)) + 1
    if number < 2:
        return np.zeros((len(errors), 0))
    sums = np.stack(
        [np.bincount(clusters, one, minlength=number) for one in (*errors, tokens)]
    )
    draws = bootstrap_draws(number, draws=resamples, seed=seed)
    *wrong, length = np.array([sums[:, picked].sum(axis=1) for (picked,) in draws]).T
    return np.stack([rates_of_resamples(one, length) for one in wrong])


def rates_of_resamples(errors: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return errors per token of each resample, without those that have no token."""
    kept = tokens > 0  # without reference tokens, the error rate is undefined
    return errors[kept] / tokens[kept]


def mapsswe(
    steps_a: Iterable[np.ndarray], steps_b: Iterable[np.ndarray]
) -> MatchedPairs:
    """Test whether two systems make equally many errors per segment (MAPSSWE).

    Segments are separated by at least two words that both systems recognise correctly,
    so that they are independent of each other.

    Args:
        steps_a: System A's alignment of each utterance, from alignment.align_all().
        steps_b: System B's alignments, with the same references.

    Returns:
        Result of the test.
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
        # Insertions come before a reference word, or at the end.
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
