"""Settings of k-means; commands show them without importing PyTorch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fit:
    """Settings for fitting centroids.

    Attributes:
        clusters: V, number of centroids.
        frames: Number of frames to sample.
        seed: Random seed of the sample and of k-means.
        batch_size: Utterances per batch of the model.
    """

    clusters: int = 500
    frames: int = 200_000
    seed: int = 0
    batch_size: int = 8


DEFAULT = Fit()
