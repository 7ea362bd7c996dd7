"""Projections derived from mean and covariance of the projected vectors."""

from dataclasses import dataclass

import numpy as np
import torch

from espnet2_birq.errors import DataError
from espnet2_birq.pretraining.ranks import sum_over_ranks


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of vectors."""

    count: int
    mean: np.ndarray  # (D,) float64
    covariance: np.ndarray  # (D, D) float64

    def whiten(self, projection: torch.Tensor) -> torch.Tensor:
        """Whiten a projection: uncorrelated outputs of variance 1.

        Args:
            projection: (D, d), linearly independent columns.

        Returns:
            (D, d) projection with the same span.

        Raises:
            DataError: The vectors have fewer than d independent directions.
        """
        matrix = projection.double().numpy()
        covariance = matrix.T @ self.covariance @ matrix
        self._check_rank(np.linalg.eigvalsh(covariance))
        factor = np.linalg.cholesky(covariance)
        return torch.tensor(np.linalg.solve(factor, matrix.T).T, dtype=torch.float32)

    def principal_components(self, dim: int, whiten: bool) -> torch.Tensor:
        """Compute principal components, scaled to an N(0, 1) codebook.

        Args:
            dim: d, number of components.
            whiten: Scale each component to variance 1; else scale all by the root of
                their mean variance.

        Returns:
            (D, d) projection.

        Raises:
            DataError: The vectors have fewer than d independent directions.
        """
        variances, vectors = np.linalg.eigh(self.covariance)
        variances, vectors = variances[::-1][:dim], vectors[:, ::-1][:, :dim]
        self._check_rank(variances)
        # Eigenvectors have arbitrary signs, which labels must not depend on. Fix them by
        # the side of a fixed direction: unlike the largest element, it hardly changes
        # with the sample.
        side = np.random.default_rng(0).standard_normal(len(vectors))
        vectors = vectors * np.sign(side @ vectors)
        scale = variances if whiten else np.full(dim, variances.mean())
        return torch.tensor(vectors / np.sqrt(scale), dtype=torch.float32)

    def _check_rank(self, variances: np.ndarray):
        # Written so that NaN fails, too.
        if not variances.min() >= 1e-8 * variances.max():
            raise DataError(
                f"{self.count} frames have fewer than {len(variances)} independent "
                "directions: labels with this projection need more speech"
            )


class MomentSums:
    """Accumulates moments of vectors in double precision.

    Args:
        size: D, size of the vectors.
    """

    def __init__(self, size: int):
        self.size = size
        # (1 + D + D^2,) count, sum, sum of outer products
        self.sums: torch.Tensor | None = None

    def add(self, vectors: torch.Tensor, valid: torch.Tensor):
        """Add M vectors.

        Args:
            vectors: (M, D) vectors; non-finite rows are ignored.
            valid: (M,) 1 for valid rows, 0 for filler rows.
        """
        rows = valid.bool() & vectors.isfinite().all(dim=1)
        x = torch.where(rows[:, None], vectors, 0.0).double()
        parts = [rows.sum()[None].double(), x.sum(dim=0), (x.T @ x).flatten()]
        sums = torch.cat(parts)
        self.sums = sums if self.sums is None else self.sums + sums

    def moments(self) -> Moments:
        """Compute mean and covariance over all ranks.

        Raises:
            DataError: No vectors were added.
        """
        count, *rest = self._total().cpu().numpy()
        if not count > 0:
            raise DataError("no frame to make the labels' projection of")
        rest = np.array(rest) / count
        mean, square = rest[: self.size], rest[self.size :]
        square = square.reshape(self.size, self.size)
        return Moments(int(count), mean, square - np.outer(mean, mean))

    def _total(self) -> torch.Tensor:
        sums = self.sums
        if sums is None:
            sums = torch.zeros(1 + self.size + self.size**2, dtype=torch.float64)
        return sum_over_ranks(sums)
