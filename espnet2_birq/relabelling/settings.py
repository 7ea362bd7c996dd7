"""Settings of k-means; commands show them without importing PyTorch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fit:
    """How centroids are fitted.

    Attributes:
        clusters: V, their number.
        frames: Frames of the sample.
        seed: Of the sample and of k-means.
        batch_size: Utterances per batch of the model.
    """

    clusters: int = 500
    frames: int = 200_000
    seed: int = 0
    batch_size: int = 8


DEFAULT = Fit()
