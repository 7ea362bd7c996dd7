"""Mean and covariance of stacked input frames: what whitened and PCA projections need.

Made once, before training, by ``python -m espnet2_birq.bin.frame_statistics``.
"""

from pathlib import Path
from typing import NamedTuple, Union

import numpy as np
import torch

from espnet2_birq.errors import ConfigError, DataError


class FrameStatistics(NamedTuple):
    """Of normalised input frames, as many side by side as the encoder joins."""

    mean: np.ndarray  # (D,) float64
    covariance: np.ndarray  # (D, D) float64
    frames: int

    def save(self, path: Union[str, Path]):
        """Write an .npz file, whole or not at all."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial.npz")
        np.savez(partial, **self._asdict())
        partial.replace(path)

    @classmethod
    def load(cls, path: Union[str, Path]) -> "FrameStatistics":
        """Read what ``save`` wrote.

        Raises:
            DataError: No such file, or not one of these.
        """
        try:
            with np.load(path) as data:
                return cls(data["mean"], data["covariance"], int(data["frames"]))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{path}: not a file of frame statistics ({error}); make it with "
                "python -m espnet2_birq.bin.frame_statistics"
            ) from error

    @classmethod
    def identity(cls, size: int) -> "FrameStatistics":
        """Of frames that are white already."""
        return cls(np.zeros(size), np.eye(size), 0)

    def check(self, input_size: int):
        """Compare sizes.

        Raises:
            ConfigError: The statistics are of vectors of another size.
        """
        if self.mean.shape != (input_size,):
            raise ConfigError(
                f"frame statistics are of {len(self.mean)} numbers a frame, the "
                f"model's frames have {input_size}: make them again for this model"
            )

    def whiten(self, projection: torch.Tensor) -> torch.Tensor:
        """Make a projection's values uncorrelated, each of variance 1.

        Args:
            projection: (D, d), linearly independent columns.

        Returns:
            (D, d) with the same span.

        Raises:
            DataError: The frames have fewer than d independent directions.
        """
        matrix = projection.double().numpy()
        covariance = matrix.T @ self.covariance @ matrix
        self._check_rank(np.linalg.eigvalsh(covariance))
        factor = np.linalg.cholesky(covariance)
        return torch.tensor(np.linalg.solve(factor, matrix.T).T, dtype=torch.float32)

    def principal_components(self, dim: int, whiten: bool) -> torch.Tensor:
        """The directions of largest variance, scaled for a codebook of N(0, 1) numbers.

        Args:
            dim: d, how many components.
            whiten: Give each component variance 1; else all are divided by the root of
                their mean variance.

        Returns:
            (D, d) projection.

        Raises:
            DataError: The frames have fewer than d independent directions.
        """
        variances, vectors = np.linalg.eigh(self.covariance)
        variances, vectors = variances[::-1][:dim], vectors[:, ::-1][:, :dim]
        self._check_rank(variances)
        # An eigenvector's sign is free; labels must not depend on the library's choice.
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(dim)])
        scale = variances if whiten else np.full(dim, variances.mean())
        return torch.tensor(vectors / np.sqrt(scale), dtype=torch.float32)

    def _check_rank(self, variances: np.ndarray):
        if variances.min() < 1e-8 * variances.max():
            raise DataError(
                f"frame statistics of {self.frames} frames have fewer than "
                f"{len(variances)} independent directions: make them of more speech"
            )
