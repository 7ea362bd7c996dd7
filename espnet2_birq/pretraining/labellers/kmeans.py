"""K-means with a k-means++ start, on a sample of frames of all ranks."""

import math

import torch

from espnet2_birq.pretraining.labels import CHUNK_NUMBERS
from espnet2_birq.pretraining.ranks import rank, sum_over_ranks, world_size


def nearest(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return the nearest codes, by Euclidean distance.

    Args:
        vectors: (M, D).
        codebook: (V, D), of the same dtype.

    Returns:
        (M,) int64 codes. Frames are processed in chunks: no (M, V) tensor is made.
    """
    # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2)
    bias = -0.5 * codebook.square().sum(dim=1)
    size = max(1, CHUNK_NUMBERS // len(codebook))
    return torch.cat(
        [
            torch.addmm(bias, part, codebook.T).max(dim=1).indices
            for part in vectors.split(size)
        ]
    )


def sums_by_code(
    vectors: torch.Tensor, weights: torch.Tensor, codes: torch.Tensor, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the vectors of each code.

    Uses matrix products, which, unlike in-place additions, give the same sums in every run
    on a GPU.

    Args:
        vectors: (M, D).
        weights: (M,) weight of each vector.
        codes: (M,) code of each vector.
        number: V, number of codes.

    Returns:
        (V,) weights and (V, D) weighted vectors, summed by code.
    """
    counts = vectors.new_zeros(number)
    sums = vectors.new_zeros(number, vectors.size(1))
    size = max(1, CHUNK_NUMBERS // number)
    every = torch.arange(number, device=codes.device)
    for x, share, code in zip(*(y.split(size) for y in (vectors, weights, codes))):
        member = (code[:, None] == every).to(x.dtype) * share[:, None]  # (C, V)
        counts += member.sum(dim=0)
        sums += member.T @ x
    return counts, sums


def kmeans(
    vectors: torch.Tensor,
    number: int,
    generator: torch.Generator,
    iterations: int = 10,
) -> torch.Tensor:
    """Cluster vectors by Lloyd's algorithm from a k-means++ start.

    Args:
        vectors: (M, D), M at least V.
        number: V, number of centroids.
        generator: Source of the start's random numbers, on the device of the vectors.
        iterations: Number of iterations, each an assignment and a move.

    Returns:
        (V, D) centroids; one without any vector stays where it is.
    """
    centroids = _plus_plus(vectors, number, generator)
    ones = torch.ones_like(vectors[:, 0])
    for _ in range(iterations):
        codes = nearest(vectors, centroids)
        counts, sums = sums_by_code(vectors, ones, codes, number)
        moved = sums / counts.clamp(min=1.0)[:, None]
        centroids = torch.where((counts > 0)[:, None], moved, centroids)
    return centroids


def _plus_plus(vectors, number, generator):
    """Draw centroids in proportion to the squared distance from those drawn before.

    Each is the best of a few draws, as in scikit-learn (greedy k-means++).
    """
    trials = 2 + int(math.log(number))
    squares = vectors.square().sum(dim=1)  # (M,)
    # Instead of 0: if all vectors have been chosen already, any may be drawn.
    tiny = torch.finfo(vectors.dtype).tiny
    distances = torch.ones_like(squares)
    chosen: list[torch.Tensor] = []
    for step in range(number):
        draws = torch.multinomial(
            distances, trials if step else 1, replacement=True, generator=generator
        )
        drawn = vectors[draws]  # (T, D)
        new = squares[:, None] - 2.0 * vectors @ drawn.T + squares[draws]  # (M, T)
        if step:
            new = torch.minimum(new, distances[:, None])
        best = new.sum(dim=0).argmin()
        distances = new[:, best].clamp(min=tiny)
        chosen.append(drawn[best])
    return torch.stack(chosen)


class FrameSample:
    """A sample of frames, spread evenly over all that were added.

    Keeps every n-th frame of a rank, and doubles n whenever that is twice too many, so
    the total number of frames need not be known beforehand.

    Args:
        size: Desired number of frames over all ranks; up to twice as many are kept.
    """

    def __init__(self, size: int):
        self.size = size
        self.kept: torch.Tensor | None = None  # (K, D)
        self.every, self.phase = 1, 0  # n, in valid frames; frames to skip

    def add(self, vectors: torch.Tensor, valid: torch.Tensor):
        """Add those of M vectors that are valid and finite.

        Args:
            vectors: (M, D) vectors.
            valid: (M,) 1 for valid rows, 0 for filler rows.
        """
        vectors = vectors[valid.bool() & vectors.isfinite().all(dim=1)]
        new = vectors[self.phase :: self.every]
        self.phase = (self.phase - len(vectors)) % self.every
        self.kept = new if self.kept is None else torch.cat([self.kept, new])
        while len(self.kept) * world_size() > 2 * self.size:
            if len(self.kept) % 2:  # the next frame would have an odd index
                self.phase += self.every
            self.kept = self.kept[::2]
            self.every *= 2

    def gather(self, like: torch.Tensor) -> torch.Tensor:
        """Return the sample of all ranks, in the order of the ranks.

        Args:
            like: (..., D) tensor with the desired dtype, on the device of the rank.

        Returns:
            (K, D) vectors.
        """
        kept = like.new_zeros(0, like.size(-1))
        steps = like.new_zeros(world_size(), dtype=torch.float64)
        steps[rank()] = self.every
        sparsest = int(sum_over_ranks(steps).max())  # of the rank that has seen most
        if self.kept is not None:
            kept = self.kept[:: sparsest // self.every].to(like)
        numbers = like.new_zeros(world_size(), dtype=torch.float64)
        numbers[rank()] = len(kept)
        *before, total = sum_over_ranks(numbers).cumsum(0).long().tolist()
        start = [0, *before][rank()]
        every = kept.new_zeros(total, kept.size(1))
        every[start : start + len(kept)] = kept
        return sum_over_ranks(every)
