"""What tells useful labels from useless ones while training goes on.

Pure functions of labels and counts. Nothing but effective_rank, whose decomposition
does, waits for a GPU: counts have fixed sizes, so a few batches can be joined to a
window, and several ranks by one sum.

    counts = slide(counts, count(codes, 8192, valid), frames=10_000)
    perplexity(counts)                                 # of statistics.py

    pairs = slide_pairs(pairs, count_pairs(enhanced, anchor, (8192, 8192), valid))
    nats, chance = mutual_information(pairs)

The perplexity of one batch cannot exceed its number of frames, and its mean over
batches is not that of their union; hence the window. The mutual information of finite
counts is too large, by about (V - 1)(W - 1) / 2N nats for N frames: 3 nats for twice
256 codes in 10,000 frames. ``chance`` is what the same labels give when they are paired
with frames half a batch away; only what exceeds it is information.
"""

from typing import NamedTuple, Optional, Tuple

import torch

WINDOW = 10_000  # frames
PAIR_WINDOW = 200_000  # frames; pairs need more, see above
BUCKETS = 2**20  # of pairs of codes: 4 MB
# 2^64 over the golden ratio, as a signed number: multiples of it spread well
_SPREAD = -7046029254386353131


def count(
    codes: torch.Tensor, size: int, valid: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """Count how often each code occurs.

    Args:
        codes: (M,) integers; -1 is a frame without one.
        size: V.
        valid: (M,) 1 where a row counts, 0 where it fills up; None: all count.

    Returns:
        (V,) float.
    """
    weights = _weights(codes, valid)
    counts = torch.zeros(size, device=codes.device)
    return counts.index_add_(0, codes.clamp(min=0), weights)


def slide(
    window: Optional[torch.Tensor], batch: torch.Tensor, frames: int = WINDOW
) -> torch.Tensor:
    """Add a batch's counts to those of a window, whose older ones fade.

    The window grows until it has ``frames``. From then on, what was there is scaled
    down by as much as is needed to make room; more than half of the weight of a frame
    is left after half a window.

    Args:
        window: (V,) counts so far, None at first.
        batch: (V,) counts of a batch, of all ranks.
        frames: How many frames the window is to hold. A larger batch stays whole.

    Returns:
        (V,).
    """
    if window is None:
        return batch
    room = (frames - batch.sum()).clamp(min=0.0)
    return window * (room / window.sum().clamp(min=1.0)).clamp(max=1.0) + batch


def agreement(
    codes: torch.Tensor, others: torch.Tensor, valid: Optional[torch.Tensor] = None
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Count the frames whose two codes are the same.

    Of use where codes of both mean the same: labels with and without noise, labels and
    predictions, two targets that share a codebook.

    Args:
        codes: (M,) integers; -1 is a frame without one.
        others: (M,) integers, likewise.
        valid: (M,) 1 where a row counts, 0 where it fills up; None: all count.

    Returns:
        Their number, and the number of frames that have both.
    """
    weights = _weights(codes, valid) * _weights(others, None)
    return ((codes == others) * weights).sum(), weights.sum()


class PairCounts(NamedTuple):
    """Counts of two label sequences and of their pairs.

    ``pairs`` and ``apart`` are exact if there are no more pairs of codes than buckets.
    Else pairs are hashed: among n different ones in b buckets a share of about n / 2b
    meets another, which makes the mutual information too small by less than that.
    """

    first: torch.Tensor  # (V,)
    second: torch.Tensor  # (W,)
    pairs: torch.Tensor  # (buckets,) of the same frame
    apart: torch.Tensor  # (buckets,) of frames half a batch apart


def count_pairs(
    first: torch.Tensor,
    second: torch.Tensor,
    sizes: Tuple[int, int],
    valid: Optional[torch.Tensor] = None,
    buckets: int = BUCKETS,
) -> PairCounts:
    """Count codes and pairs of codes of a batch.

    Args:
        first: (M,) integers below V; -1 is a frame without one.
        second: (M,) integers below W, likewise.
        sizes: V and W.
        valid: (M,) 1 where a row counts, 0 where it fills up; None: all count.
        buckets: A power of 2.
    """
    weights = _weights(first, valid) * _weights(second, None)
    present = weights > 0
    number = present.sum()
    # The n-th valid row's partner is the valid row half of all further on.
    rows = torch.argsort(~present, stable=True)
    rank = present.cumsum(0) - 1
    partner = rows[(rank + number // 2).clamp(min=0) % number.clamp(min=1)]
    counts = []
    for other in (second, second[partner]):
        pair = first.clamp(min=0).long() * sizes[1] + other.clamp(min=0)
        if sizes[0] * sizes[1] > buckets:
            bits = buckets.bit_length() - 1
            pair = (pair * _SPREAD >> (64 - bits)) & (buckets - 1)
        total = weights.new_zeros(min(buckets, sizes[0] * sizes[1]))
        counts.append(total.index_add_(0, pair, weights))
    return PairCounts(
        count(first, sizes[0], weights), count(second, sizes[1], weights), *counts
    )


def slide_pairs(
    window: Optional[PairCounts], batch: PairCounts, frames: int = PAIR_WINDOW
) -> PairCounts:
    """Add a batch's counts to those of a window; see ``slide``."""
    if window is None:
        return batch
    return PairCounts(*(slide(old, new, frames) for old, new in zip(window, batch)))


def mutual_information(counts: PairCounts) -> Tuple[torch.Tensor, torch.Tensor]:
    """Compute how much two label sequences tell of each other, in nats.

    Returns:
        The mutual information, and what chance makes of it at so many frames.
    """
    apiece = entropy(counts.first) + entropy(counts.second)
    return apiece - entropy(counts.pairs), apiece - entropy(counts.apart)


def entropy(counts: torch.Tensor) -> torch.Tensor:
    """Compute the entropy of counts (V,), in nats."""
    shares = counts.double() / counts.sum().clamp(min=1.0)
    return torch.special.entr(shares).sum()


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


def _weights(codes, valid):
    """(M,) 1 where a frame has a code and counts."""
    there = (codes >= 0).float()
    return there if valid is None else there * valid
