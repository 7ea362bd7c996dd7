"""Linear frame classifier, and its accuracy on unseen speakers.

Training is deterministic: the objective is convex, starts at zero and sees all frames
in each step.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

# On the mean cross-entropy. Weak enough to let a layer show what it holds; but without
# it, accuracy on other speakers would depend on when training is stopped.
L2 = 1e-3
ITERATIONS = 100


class LinearProbe(NamedTuple):
    """Multinomial logistic regression of standardised features."""

    mean: torch.Tensor  # (D,)
    scale: torch.Tensor  # (D,)
    weight: torch.Tensor  # (P, D)
    bias: torch.Tensor  # (P,)

    def predict(self, features: torch.Tensor) -> np.ndarray:
        """Tell the likeliest class of each frame, (N, D) to (N,)."""
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

    That is scikit-learn's LogisticRegression with C = 1 / (l2 N).

    Args:
        features: (N, D).
        labels: (N,) int64.
        classes: P.
        l2: Weight of the penalty; biases are free.
        iterations: At most so many, each with a line search.
    """
    mean = features.mean(dim=0)
    # A value that never changes stays what it is, zero.
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
    """Take each speaker's share of correct frames.

    Args:
        correct: (N,) bool.
        speakers: N names.
    """
    names, rows = np.unique(speakers, return_inverse=True)
    shares = np.bincount(rows, weights=correct) / np.bincount(rows)
    return dict(zip(names.tolist(), shares.tolist()))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over speakers and its standard error; of one speaker there is no error."""
    if len(values) < 2:
        return float(np.mean(values)), None
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def paired_difference(
    one: Mapping[str, float], other: Mapping[str, float]
) -> tuple[float, float | None]:
    """Mean over the same speakers of `one` less `other`, and its standard error.

    Some speakers are harder than others, for every model: that part, most of the
    standard error of either accuracy, is not in their difference.

    Raises:
        ValueError: They are not of the same speakers.
    """
    if one.keys() != other.keys():
        raise ValueError("accuracies of different speakers cannot be paired")
    return mean_and_error([one[speaker] - other[speaker] for speaker in sorted(one)])


def effective_rank(vectors: torch.Tensor) -> torch.Tensor:
    """Compute RankMe (arXiv 2210.02885): how many dimensions are in equal use.

    exp of the entropy of the singular values as shares of their sum. Vectors are not
    centred, as in that paper: a common offset is one of the dimensions.

    Args:
        vectors: (M, D); better more than D.

    Returns:
        Between 1 and D.
    """
    square = vectors.new_zeros(vectors.size(1), vectors.size(1), dtype=torch.double)
    for rows in vectors.split(10_000):
        rows = rows.double()
        square += rows.T @ rows
    values = torch.linalg.eigvalsh(square).clamp(min=0.0).sqrt()
    return torch.special.entr(values / values.sum()).sum().exp()
