"""Hard, soft and vector labels, the interface between labellers and losses."""

from typing import NamedTuple

import torch

# Elements of a chunk's (frames, codes) tensors, 32 MiB in single precision. About five of
# them are alive at once; smaller chunks slow down the matmuls.
CHUNK_NUMBERS = 2**23


class HardLabels(NamedTuple):
    """One code per frame."""

    codes: torch.Tensor  # (M,) int64; -1: no label
    valid: torch.Tensor | None = None  # (M,) 1 for valid rows; None: all are valid


class SoftLabels(NamedTuple):
    """A distribution over V codes per frame, sampled in the loss (BiRQ Eq. 4).

    The label is softmax((scores + Gumbel noise) / temperature) with scores = points @
    code_weight.T + code_bias. Stored as these parts, of size d, because V values per
    frame would be the largest tensor of a step.
    """

    points: torch.Tensor  # (M, d) projected vectors; may carry a gradient
    code_weight: torch.Tensor  # (V, d)
    code_bias: torch.Tensor  # (V,)
    temperature: float = 1.0
    straight_through: bool = False  # hard sampled label, soft gradient
    valid: torch.Tensor | None = None  # (M,) 1 for valid rows; None: all are valid


class VectorLabels(NamedTuple):
    """A vector per frame, predicted by regression."""

    vectors: torch.Tensor  # (M, D) float32, no gradient
    beta: float = 0.0  # see LatentLabeller
    valid: torch.Tensor | None = None  # (M,) 1 for valid rows; None: all are valid


Labels = HardLabels | SoftLabels | VectorLabels


def labelled(labels: Labels, valid: torch.Tensor) -> torch.Tensor:
    """Return (M,) 1 for valid rows with a label, 0 elsewhere."""
    if labels.valid is not None:
        valid = valid * labels.valid
    if isinstance(labels, HardLabels):
        valid = valid * (labels.codes >= 0)
    elif isinstance(labels, VectorLabels):
        valid = valid * labels.vectors.isfinite().all(dim=1)
    return valid


def precise(xs: torch.Tensor) -> torch.Tensor:
    """Convert vectors to single precision, unless they have better; codes stay."""
    if not xs.is_floating_point():
        return xs  # labels from disk
    return xs.to(torch.promote_types(xs.dtype, torch.float32))
