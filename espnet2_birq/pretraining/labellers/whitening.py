"""Whitening of projected hidden states by running moments."""

import torch

from espnet2_birq.pretraining.ranks import sum_over_ranks


class RunningWhitening(torch.nn.Module):
    """Normalises points to zero mean and unit covariance by running estimates.

    Hidden states have most of their variance in a few directions: after a
    random projection they concentrate on a few codes (perplexity 36 to 63 of 8192 for an
    untrained layer on 4,000 frames of real speech; whitened, 1800: docs/objectives.md).
    The estimate averages over 1 / momentum batches including the current one,
    so a frame's label depends little on its batch and no gradient flows through the
    moments; the Cholesky factor is a smooth function of the covariance, so labels
    drift instead of jumping as they would with principal components, which swap or
    change sign.

    Args:
        num_books: N, number of projections.
        dim: d, size of the points.
        momentum: Weight of a batch after the first 1 / momentum batches, which have
            equal weights.
        epsilon: Fraction of the mean variance added to each direction.
    """

    # Variance below this fraction of the squared mean is float32 rounding of the points.
    ROUNDING = 1e-12

    mean: torch.Tensor  # (N, d)
    covariance: torch.Tensor  # (N, d, d)
    batches: torch.Tensor  # () seen so far

    def __init__(
        self, num_books: int, dim: int, momentum: float = 0.01, epsilon: float = 1e-4
    ):
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(num_books, dim))
        self.register_buffer("covariance", torch.eye(dim).repeat(num_books, 1, 1))
        # Floating point: ESPnet sums integers when averaging checkpoints.
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Whiten points (N, M, d) by the current moments."""
        covariance, mean = self.covariance.double(), self.mean.double()
        floor = self.epsilon * covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
        floor = floor + self.ROUNDING * (1.0 + mean.square().mean(dim=1))
        identity = torch.eye(points.size(2)).to(covariance)
        covariance = covariance + floor[:, None, None] * identity
        # cholesky_ex does not synchronise with a GPU; if it fails, scale each direction
        # separately.
        factor, info = torch.linalg.cholesky_ex(covariance)
        alone = covariance.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt().diag_embed()
        factor = torch.where((info == 0)[:, None, None], factor, alone).to(points)
        centred = (points - self.mean[:, None, :]).transpose(1, 2)
        whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
        return whitened.transpose(1, 2)

    def observe(self, points: torch.Tensor, valid: torch.Tensor):
        """Update the running moments with a batch's moments over all ranks.

        Uses deviations from the running mean, in double precision: E[xx'] - mm' of
        points whose spread is a thousandth of their mean would be pure rounding error.

        Args:
            points: (N, M, d) detached points.
            valid: (M,) 1 for valid rows, 0 for filler rows.
        """
        deviations = points.double() - self.mean.double()[:, None, :]
        weighted = deviations * valid[:, None]
        parts = [
            weighted.sum(dim=1).flatten(),
            (weighted.transpose(1, 2) @ deviations).flatten(),
            valid.double().sum()[None],
        ]
        sums = sum_over_ranks(torch.cat(parts))
        # Non-finite moments would never recover: such a batch does not count.
        good = sums.isfinite().all() & (sums[-1] > 0)
        sums = sums / sums[-1].clamp(min=1.0)
        shift, square = sums[:-1].split([self.mean.numel(), self.covariance.numel()])
        shift, square = shift.view_as(self.mean), square.view_as(self.covariance)
        self.batches += good
        rate = (1.0 / self.batches.clamp(min=1.0)).clamp(min=self.momentum).double()
        outer = shift[:, :, None] * shift[:, None, :]
        old = self.covariance.double()
        covariance = old + rate * (square - old) - rate.square() * outer
        mean = self.mean.double() + rate * shift
        for kept, new in ((self.mean, mean), (self.covariance, covariance)):
            kept.copy_(torch.where(good, new.to(kept), kept))
