"""Linear frame classifier, and its accuracy on unseen speakers.

Training is deterministic: the objective is convex, weights start at zero, and each step
uses all frames.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

# Penalty added to the mean cross-entropy. It is weak, so that it hides little of a layer's
# information; without it, accuracy on other speakers would depend on the stopping time.
L2 = 1e-3
ITERATIONS = 100


class LinearProbe(NamedTuple):
    """Multinomial logistic regression on standardised features."""

    mean: torch.Tensor  # (D,)
    scale: torch.Tensor  # (D,)
    weight: torch.Tensor  # (P, D)
    bias: torch.Tensor  # (P,)

    def predict(self, features: torch.Tensor) -> np.ndarray:
        """Return the likeliest class of each frame, (N, D) to (N,)."""
        scores = torch.nn.functional.linear(
            (features - self.mean) / self.scale, self.weight, self.bias
        )
        return scores.argmax(dim=1).cpu().numpy()


def fit_linear_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    l2: float = L2,
    iterations: int = ITERATIONS,
) -> LinearProbe:
    """Minimise mean cross-entropy + l2 / 2 |weights|^2 by L-BFGS.

    This equals scikit-learn's LogisticRegression with C = 1 / (l2 N).

    Args:
        features: Features (N, D).
        labels: Class indices, (N,) int64.
        classes: Number of classes P.
        l2: Weight of the penalty; biases are not penalised.
        iterations: Maximum number of iterations, each with a line search.
    """
    mean = features.mean(dim=0)
    # Constant features are zero after subtracting the mean; do not divide by zero.
    scale = features.std(dim=0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    inputs = (features - mean) / scale
    weight = inputs.new_zeros(classes, inputs.size(1), requires_grad=True)
    bias = inputs.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        max_eval=2 * iterations,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,
        tolerance_change=0.0,
    )

    def loss():
        optimizer.zero_grad()
        scores = torch.nn.functional.linear(inputs, weight, bias)
        value = torch.nn.functional.cross_entropy(scores, labels)
        value = value + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return LinearProbe(mean, scale, weight.detach(), bias.detach())


def accuracy_of_speakers(
    correct: np.ndarray, speakers: np.ndarray | Sequence[str]
) -> dict[str, float]:
    """Compute each speaker's share of correct frames.

    Args:
        correct: Whether each frame is correct, (N,) bool.
        speakers: Speaker of each frame, (N,).
    """
    names, rows = np.unique(speakers, return_inverse=True)
    shares = np.bincount(rows, weights=correct) / np.bincount(rows)
    return dict(zip(names.tolist(), shares.tolist()))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute the mean over speakers and its standard error; None for one speaker."""
    if len(values) < 2:
        return float(np.mean(values)), None
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def paired_difference(
    one: Mapping[str, float], other: Mapping[str, float]
) -> tuple[float, float | None]:
    """Compute the mean over speakers of `one` minus `other`, and its standard error.

    Most of the standard error of each accuracy comes from speakers who are difficult for
    every model. This part cancels in the difference.

    Raises:
        ValueError: The speakers differ.
    """
    if one.keys() != other.keys():
        raise ValueError("accuracies of different speakers cannot be paired")
    return mean_and_error([one[speaker] - other[speaker] for speaker in sorted(one)])


def effective_rank(vectors: torch.Tensor) -> torch.Tensor:
    """Compute RankMe (arXiv 2210.02885), the effective number of used dimensions.

    It is exp of the entropy of the singular values, normalised to sum to 1. As in that
    paper, vectors are not centred, so a common offset counts as a dimension.

    Args:
        vectors: Vectors (M, D), preferably with M > D.

    Returns:
        Effective rank, between 1 and D.
    """
    square = vectors.new_zeros(vectors.size(1), vectors.size(1), dtype=torch.double)
    for rows in vectors.split(10_000):
        rows = rows.double()
        square += rows.T @ rows
    values = torch.linalg.eigvalsh(square).clamp(min=0.0).sqrt()
    return torch.special.entr(values / values.sum()).sum().exp()
