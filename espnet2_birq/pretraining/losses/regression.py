"""Regression of vectors at masked frames, and the spread of vectors over frames."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from espnet2_birq.pretraining.labels import VectorLabels, labelled


class VectorTally(NamedTuple):
    """Statistics of one objective, summed over frames; no gradients."""

    frames: torch.Tensor  # () labelled frames
    loss: torch.Tensor  # ()
    grad_square: torch.Tensor  # () squared gradient norm at the hidden states
    targets: torch.Tensor  # (2, D) sums of values and of their squares
    predictions: torch.Tensor  # (2, D) the same


def masked_regression(
    hidden: torch.Tensor,
    predictions: torch.Tensor,
    valid: torch.Tensor,
    labels: VectorLabels,
    weight: float,
    count: torch.Tensor,
) -> tuple[torch.Tensor, VectorTally]:
    """Compute the squared or smooth L1 error, averaged over values, summed over frames.

    Args:
        hidden: (M, E) hidden states from which the predictions were computed.
        predictions: (M, D).
        valid: (M,) 1 for masked frames, 0 for filler rows.
        labels: (M, D) targets; frames with non-finite ones have no loss.
        weight: Loss weight.
        count: () number of frames to divide by.

    Returns:
        () weight x sum / count, and the statistics.
    """
    predictions, valid = predictions.float(), labelled(labels, valid)
    rows = (valid > 0)[:, None]
    targets = torch.where(rows, labels.vectors, 0.0)
    # A filler row's prediction does not count, even if it is NaN.
    predictions = torch.where(rows, predictions, 0.0)
    if labels.beta:
        errors = F.smooth_l1_loss(
            predictions, targets, reduction="none", beta=labels.beta
        )
    else:
        errors = F.mse_loss(predictions, targets, reduction="none")
    loss = (errors.mean(dim=1) * valid).sum()
    total = weight * loss / count.to(loss).clamp(min=1.0)
    square = torch.zeros_like(loss)
    if torch.is_grad_enabled() and hidden.requires_grad:
        # Through the head alone, to compare objectives at the encoder's output.
        (gradient,) = torch.autograd.grad(total, hidden, retain_graph=True)
        square = gradient.float().square().sum()
    tally = VectorTally(
        valid.sum(), loss.detach(), square, _sums(targets), _sums(predictions.detach())
    )
    return total, tally


def _sums(vectors: torch.Tensor) -> torch.Tensor:
    # In double precision, or the variance would be mostly rounding error.
    vectors = vectors.double()
    return torch.stack([vectors.sum(dim=0), vectors.square().sum(dim=0)])


def spread(frames: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """Compute the standard deviation over frames, averaged over values.

    data2vec's guard against collapse: 0 if all vectors are the same.

    Args:
        frames: () number of frames.
        sums: (2, D) sums of values and of their squares.
    """
    mean, square = sums / frames.clamp(min=1.0)
    return (square - mean.square()).clamp(min=0.0).sqrt().mean()
