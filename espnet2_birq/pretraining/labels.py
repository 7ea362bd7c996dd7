"""What masked frames are labelled with: the type between labellers and losses."""

from typing import NamedTuple

import torch

# Numbers in the (frames, codes) tensors of a chunk of frames, 32 MiB in single precision.
# Some five of them live at once; smaller chunks make the products slower.
CHUNK_NUMBERS = 2**23


class HardLabels(NamedTuple):
    """One code a frame."""

    codes: torch.Tensor  # (M,) int64; -1: the frame has none
    valid: torch.Tensor | None = None  # (M,) 1 where a row counts; None: all do


class SoftLabels(NamedTuple):
    """A distribution over V codes a frame, drawn where the loss is made (BiRQ Eq. 4).

    The label is softmax((scores + Gumbel noise) / temperature) with scores = points @
    code_weight.T + code_bias. Kept as its ingredients, of size d, since V numbers a
    frame would be the largest tensor of a step.
    """

    points: torch.Tensor  # (M, d) projected vectors; may carry a gradient
    code_weight: torch.Tensor  # (V, d)
    code_bias: torch.Tensor  # (V,)
    temperature: float = 1.0
    straight_through: bool = False  # the label is the code drawn, the gradient is soft
    valid: torch.Tensor | None = None  # (M,) 1 where a row counts; None: all do


Labels = HardLabels | SoftLabels


def labelled(labels: Labels, valid: torch.Tensor) -> torch.Tensor:
    """Return (M,) 1 where a row of ``valid`` has a label, 0 elsewhere."""
    if labels.valid is not None:
        valid = valid * labels.valid
    if isinstance(labels, HardLabels):
        valid = valid * (labels.codes >= 0)
    return valid
