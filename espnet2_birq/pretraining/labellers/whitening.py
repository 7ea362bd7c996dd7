"""Whitening by running moments, for the points that a layer's labels are made of."""

import torch

from espnet2_birq.pretraining.ranks import sum_over_ranks


class RunningWhitening(torch.nn.Module):
    """Gives points mean 0 and unit covariance, by a running estimate of both.

    Hidden states of a layer share most of their variance along few directions: after a
    random projection they crowd at a few codes (perplexity 36 to 63 of 8192 for an
    untrained layer on 4,000 frames of real speech; whitened, 1800: docs/objectives.md).
    The estimate includes the present batch but is an average over 1 / momentum of them,
    so a frame's label depends little on its company and no gradient passes through the
    moments; the Cholesky factor is a smooth function of the covariance, so labels
    drift and never jump, as they would with principal components that change order or
    sign.

    Args:
        num_books: N, how many projections are whitened side by side.
        dim: d, size of the points.
        momentum: Weight of a batch once 1 / momentum batches have been seen; up to
            there all batches count the same.
        epsilon: Share of the mean variance that is added to each direction's.
    """

    # Variance below this share of the squared mean is rounding of float32 points.
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
        # In floating point: ESPnet sums integers when it averages checkpoints.
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Whiten points (N, M, d) by the moments so far."""
        covariance, mean = self.covariance.double(), self.mean.double()
        floor = self.epsilon * covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
        floor = floor + self.ROUNDING * (1.0 + mean.square().mean(dim=1))
        identity = torch.eye(points.size(2)).to(covariance)
        covariance = covariance + floor[:, None, None] * identity
        # cholesky_ex does not wait for a GPU to report a failure: then each direction
        # by itself.
        factor, info = torch.linalg.cholesky_ex(covariance)
        alone = covariance.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt().diag_embed()
        factor = torch.where((info == 0)[:, None, None], factor, alone).to(points)
        centred = (points - self.mean[:, None, :]).transpose(1, 2)
        whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
        return whitened.transpose(1, 2)

    def observe(self, points: torch.Tensor, valid: torch.Tensor):
        """Move the estimate towards a batch's moments, those of all ranks.

        With deviations from the running mean, in double precision: E[xx'] - mm' of
        points whose spread is a thousandth of their mean would be rounding alone.

        Args:
            points: (N, M, d), without gradient.
            valid: (M,) 1 where a row counts, 0 where it is filling.
        """
        deviations = points.double() - self.mean.double()[:, None, :]
        weighted = deviations * valid[:, None]
        parts = [
            weighted.sum(dim=1).flatten(),
            (weighted.transpose(1, 2) @ deviations).flatten(),
            valid.double().sum()[None],
        ]
        sums = sum_over_ranks(torch.cat(parts))
        # What is not finite once would be for ever: such a batch does not count.
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
