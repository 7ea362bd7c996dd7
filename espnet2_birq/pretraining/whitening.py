"""Whitening by running statistics, for the points that a layer's labels are made of."""

from typing import Optional

import torch


class RunningWhitening(torch.nn.Module):
    """Gives points mean 0 and unit covariance, by a running estimate of both.

    Hidden states of a layer share most of their variance along few directions: after a
    random projection they crowd at a few codes (perplexity 36 to 63 of 8192 for an
    untrained layer on 4,000 frames of real speech; whitened, 1800: docs/targets.md).
    The estimate includes the present batch but is an average over 1 / momentum of them,
    so a frame's label depends little on its company and no gradient passes through the
    statistics; the Cholesky factor is a smooth function of the covariance, so labels
    drift and never jump, as they would with principal components that change order or
    sign.

    Args:
        num_books: N, how many projections are whitened side by side.
        dim: d, size of the points.
        momentum: Weight of a batch once 1 / momentum batches have been seen; up to
            there all batches count the same.
        epsilon: Share of the mean variance that is added to each direction's.
    """

    def __init__(
        self, num_books: int, dim: int, momentum: float = 0.01, epsilon: float = 1e-4
    ):
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(num_books, dim))
        self.register_buffer("square", torch.eye(dim).repeat(num_books, 1, 1))
        # In floating point: ESPnet sums integers when it averages checkpoints.
        self.register_buffer("batches", torch.zeros(()))

    def forward(
        self, points: torch.Tensor, present: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Update the estimate (in training mode only) and whiten.

        Args:
            points: (N, M, d).
            present: (M,) 1 where a row counts, 0 where it fills up; None: all count.

        Returns:
            (N, M, d).
        """
        if self.training:
            self._update(points.detach(), present)
        covariance = self.square - self.mean[:, :, None] * self.mean[:, None, :]
        floor = self.epsilon * covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
        identity = torch.eye(points.size(2)).to(points)
        covariance = covariance + floor[:, None, None] * identity
        # cholesky_ex does not wait for a GPU to report a failure.
        factor, _ = torch.linalg.cholesky_ex(covariance)
        centred = (points - self.mean[:, None, :]).transpose(1, 2)
        whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
        return whitened.transpose(1, 2)

    def _update(self, points, present):
        if present is None:
            present = points.new_ones(points.size(1))
        weighted = points * present[:, None]
        sums = torch.cat(
            [
                weighted.sum(dim=1).flatten(),
                (weighted.transpose(1, 2) @ points).flatten(),
                present.sum()[None],
            ]
        )
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        sums = sums / sums[-1].clamp(min=1.0)
        mean, square = sums[:-1].split([self.mean.numel(), self.square.numel()])
        # What is not finite once would be for ever: such a batch does not count.
        good = sums.isfinite().all()
        self.batches += good
        rate = (1.0 / self.batches.clamp(min=1.0)).clamp(min=self.momentum)
        for kept, new in ((self.mean, mean), (self.square, square)):
            moved = kept + rate * (new.view_as(kept) - kept)
            kept.copy_(torch.where(good, moved, kept))
