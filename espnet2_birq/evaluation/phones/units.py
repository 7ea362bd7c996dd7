"""Phone information in discrete units: PNMI, and usage of the units."""

from typing import NamedTuple

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import mutual_info_score

KMEANS_SEEDS = 3


class UnitScores(NamedTuple):
    """Phone information of discrete units.

    Attributes:
        pnmi: I(phone; unit) / H(phone), the share of phone information in the unit.
        chance: PNMI of units shuffled over frames. PNMI is biased upwards, more so with
            more units and fewer frames; only the excess over this value counts.
        perplexity: exp of the entropy of the units, i.e. their effective number.
    """

    pnmi: float
    chance: float
    perplexity: float


def score_units(phones: np.ndarray, units: np.ndarray) -> UnitScores:
    """Compare units with phones, frame by frame.

    Args:
        phones: Phone class of each frame, (N,) integers.
        units: Unit of each frame, (N,) integers.
    """
    shuffled = np.random.default_rng(0).permutation(units)
    phone_entropy = entropy(phones)
    if phone_entropy == 0.0:
        raise ValueError("all frames are of one phone: there is nothing to tell")
    return UnitScores(
        float(mutual_info_score(phones, units) / phone_entropy),
        float(mutual_info_score(phones, shuffled) / phone_entropy),
        float(np.exp(entropy(units))),
    )


def entropy(values: np.ndarray) -> float:
    """Compute the entropy of the distribution of integers, in nats."""
    counts = np.unique(values, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def kmeans_units(features: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Cluster frames (N, D); return the cluster index of each, (N,).

    At most ten passes are made, in mini-batches. Lloyd's algorithm over all frames takes
    four times as long; it increased PNMI by .005 to .006, both for log-mel and for a layer.
    """
    kmeans = MiniBatchKMeans(
        number, batch_size=4096, max_iter=10, n_init=1, random_state=seed
    )
    return kmeans.fit_predict(features)
