"""Codebooks that follow the vectors: moving averages of counts and sums of each code.

    usage <- decay usage + (1 - decay) share of the update's frames with this code
    sums  <- decay sums  + (1 - decay) their sum, divided by the number of all frames
    code   = sums / usage, smoothed

This is the codebook of VQ-VAE (arXiv 1711.00937, appendix A.1), with shares instead of
counts, so that neither the size of a batch nor that of the initial sample acts as a weight.
The averages move once per optimizer update, by the frames of all its batches and of all
ranks. K-means makes the first codebooks before the first update.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.labellers.base import Labeller
from espnet2_birq.pretraining.labellers.kmeans import (
    FrameSample,
    kmeans,
    nearest,
    sums_by_code,
)
from espnet2_birq.pretraining.labels import HardLabels, Labels
from espnet2_birq.pretraining.ranks import RowPicker, sum_over_ranks
from espnet2_birq.pretraining.settings import check_number, check_whole

# Laplace smoothing of the usage: the usual 1e-5 on counts of some 1,000 frames.
SMOOTHING = 1e-8
RARE = 100 * SMOOTHING  # usage below which smoothing has moved a code by 1 %
# Usage with which a new code starts, as a share of uniform usage: it moves to its frames
# within some updates, and has 1 / (1 - decay) x ln 10 updates before it is unused again.
RESTART = 0.1
USED = 0.01  # share of uniform usage above which a code counts as used
# Number of frames from which k-means makes the codebooks: per code, and minimum in all.
FRAMES_PER_CODE, FEWEST_FRAMES = 20, 10_000


class Observed(NamedTuple):
    """Observations of this rank since the last update."""

    counts: torch.Tensor  # (N, V) frames of each code
    sums: torch.Tensor  # (N, V, width) sum of their vectors
    errors: torch.Tensor  # (N,) sum of the squared error of each codebook
    squares: torch.Tensor  # (N,) sum of the squared norms of the vectors quantized
    # (N, V, width) vectors of the last batch for new codes; 0 where another rank has them
    fresh: torch.Tensor
    last: torch.Tensor  # () frames of the last batch

    def add(self, other: "Observed") -> "Observed":
        """Add a batch's observations."""
        return Observed(
            self.counts + other.counts,
            self.sums + other.sums,
            self.errors + other.errors,
            self.squares + other.squares,
            other.fresh,
            other.last,
        )

    def over_ranks(self) -> "Observed":
        """Sum over all ranks in one all-reduce."""
        message = sum_over_ranks(torch.cat([x.flatten() for x in self]))
        parts = message.split([x.numel() for x in self])
        return Observed(*(part.view_as(x) for part, x in zip(parts, self)))


class MovingCodebooks(Labeller):
    """N codebooks of V codes that follow the vectors they label.

    Subclasses define in ``walk`` which vectors each codebook quantizes.

    Args:
        input_size: D, size of the vectors.
        width: Size of a code.
        num_codebooks: N.
        codebook_size: V.
        decay: Decay of the moving averages per update; 1: codebooks stay those of k-means.
        reseed: Codes used less than this share of uniform usage are replaced by
            vectors of the current batch; 0: never.
        seed: Seed of k-means.

    Raises:
        ConfigError: An option is out of range.
    """

    levels = True
    remedy = (
        "raise reseed (labeller_conf) or the teacher's decay, lower the learning rate, "
        "or add an anchor"
    )
    usage: torch.Tensor  # (N, V) share of the frames, summing to about 1
    sums: torch.Tensor  # (N, V, width)
    errors: torch.Tensor  # (N,) mean squared error of each codebook
    variances: torch.Tensor  # (N,) variance of the vectors each codebook quantizes

    def __init__(
        self,
        input_size: int,
        width: int,
        num_codebooks: int,
        codebook_size: int,
        decay: float,
        reseed: float,
        seed: int,
    ):
        super().__init__()
        check_whole("num_codebooks", num_codebooks, 1)
        check_whole("codebook_size", codebook_size, 2)
        check_number("decay", decay, most=1.0)
        check_number("reseed", reseed)
        if reseed >= RESTART:
            raise ConfigError(
                f"reseed is below {RESTART}, the share with which a new code starts, got "
                f"{reseed!r}"
            )
        check_whole("seed", seed)
        self.input_size = input_size
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        self.decay, self.reseed, self.seed = decay, reseed, seed
        shape = (num_codebooks, codebook_size)
        self.register_buffer("usage", torch.full(shape, 1.0 / codebook_size))
        self.register_buffer("sums", torch.zeros(*shape, width))
        self.register_buffer("errors", torch.zeros(num_codebooks))
        self.register_buffer("variances", torch.zeros(num_codebooks))
        self.register_buffer("started", torch.zeros(()))
        self.ready = False
        self.sample = FrameSample(max(FEWEST_FRAMES, FRAMES_PER_CODE * codebook_size))
        self.observed: Observed | None = None
        self.remember(
            dict(
                labeller=type(self).__name__,
                input_size=input_size,
                num_codebooks=num_codebooks,
                codebook_size=codebook_size,
            )
        )

    def walk(
        self,
        vectors: torch.Tensor,
        visit: Callable[[int, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Visit the vectors that each codebook quantizes.

        Args:
            vectors: (M, D).
            visit: Function from the number of a codebook and the (M, width) vectors that
                it quantizes to their (M, width) codes.

        Returns:
            (M, D) quantized vectors.
        """
        raise NotImplementedError

    def whole(self) -> torch.Tensor:
        """Return the (N,) variances to which ``errors`` are compared."""
        return self.variances

    def codebooks(self) -> torch.Tensor:
        """Return the codes (N, V, width)."""
        return self.sums / self._smoothed_usage()

    def _smoothed_usage(self) -> torch.Tensor:
        """Return the usage (N, V, 1), nowhere 0."""
        total = self.usage.sum(dim=1, keepdim=True)
        share = (self.usage + SMOOTHING) / (total + self.codebook_size * SMOOTHING)
        return (total * share)[:, :, None]

    @torch.no_grad()
    def codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the codes (N, M) int64 of M vectors."""
        return self._quantize(vectors)[0]

    def check_ready(self):
        """Check that the codebooks have been made.

        Raises:
            DataError: They have not been made yet.
        """
        if not self.ready:
            raise DataError(
                "codebooks are computed from training data by k-means, before ssl_train's "
                "first update: call BiRQModel.prepare(batches), or load a trained model"
            )

    def _quantize(self, vectors):
        self.check_ready()
        books, codes = self.codebooks(), []

        def visit(book, x):
            codes.append(nearest(x, books[book]))
            return books[book][codes[-1]]

        # Not under autocast: rounding to bfloat16 would change labels.
        with torch.autocast(vectors.device.type, enabled=False):
            made = self.walk(vectors.to(books.dtype), visit)
        return torch.stack(codes), made

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Label M vectors by the codes of each codebook."""
        return [HardLabels(codes) for codes in self.codes(vectors)]

    @torch.no_grad()
    def observe(self, vectors: torch.Tensor, valid: torch.Tensor):
        """Collect counts and sums; before the start, a sample for k-means."""
        if not self.ready:
            self.sample.add(vectors, valid)
        elif self.decay < 1.0:
            with torch.autocast(vectors.device.type, enabled=False):
                new = self._collect(vectors.to(self.sums.dtype), valid)
            self.observed = new if self.observed is None else self.observed.add(new)

    def _collect(self, vectors, valid) -> Observed:
        good = valid.bool() & vectors.isfinite().all(dim=1)
        vectors = torch.where(good[:, None], vectors, 0.0)
        weights = good.to(vectors.dtype)
        books, parts = self.codebooks(), []
        picker = RowPicker(good) if self.reseed else None

        def visit(book, x):
            codes = nearest(x, books[book])
            made = books[book][codes]
            counts, sums = sums_by_code(x, weights, codes, self.codebook_size)
            error = ((x - made).square().sum(dim=1) * weights).sum()
            square = (x.square().sum(dim=1) * weights).sum()
            fresh = sums.new_zeros(0)
            if picker is not None:  # different rows for each codebook
                first = 1 + book * self.codebook_size
                fresh = picker.pick(x, range(first, first + self.codebook_size))
            parts.append((counts, sums, error, square, fresh))
            return made

        self.walk(vectors, visit)
        columns = (torch.stack(column) for column in zip(*parts))
        counts, sums, errors, squares, fresh = columns
        return Observed(counts, sums, errors, squares, fresh, weights.sum())

    def forget(self):
        """Drop the observations since the last update."""
        self.observed = None

    @torch.no_grad()
    def step(self):
        """Move the codebooks by the observations since the last update."""
        if self.observed is None:
            return
        seen, self.observed = self.observed.over_ranks(), None
        frames = seen.counts[0].sum()
        some = frames > 0
        frames = frames.clamp(min=1.0)
        means = seen.sums.sum(dim=1) / frames  # (N, width)
        variances = seen.squares / frames - means.square().sum(dim=1)
        before = self.codebooks()
        for kept, new in (
            (self.usage, seen.counts / frames),
            (self.sums, seen.sums / frames),
            (self.errors, seen.errors / frames),
            (self.variances, variances),
        ):
            moved = kept.lerp(new.to(kept), 1.0 - self.decay)
            kept.copy_(torch.where(some, moved, kept))
        # Smoothing would draw a code that is long unused to the origin: it stays instead.
        rare = (some & (seen.counts == 0) & (self.usage < RARE))[:, :, None]
        self.sums.copy_(torch.where(rare, before * self._smoothed_usage(), self.sums))
        if self.reseed:
            self._replace_unused(seen.fresh, seen.last)

    def _replace_unused(self, fresh: torch.Tensor, frames: torch.Tensor):
        """Replace unused codes by new ones, identically on all ranks.

        Args:
            fresh: (N, V, width) vectors for the first, second, ... unused code.
            frames: () frames of the batch that the vectors are from.
        """
        unused = self.usage < self.reseed / self.codebook_size  # (N, V)
        place = unused.cumsum(dim=1) - 1
        unused &= 3 * (place + 1) <= frames  # different rows: RowPicker
        place = place.clamp(min=0)[:, :, None].expand_as(fresh)
        share = RESTART / self.codebook_size
        new = fresh.gather(1, place) * share
        self.sums.copy_(torch.where(unused[:, :, None], new, self.sums))
        self.usage.masked_fill_(unused, share)

    def statistics(self) -> dict[str, torch.Tensor]:
        """Return usage and error of each codebook.

        Returns:
            For codebook n, from 1: ``level<n>_usage``, the share of codes used at
            least a hundredth as often as in uniform usage, and ``level<n>_error``, the
            remaining squared error as a share of the vectors' variance.
        """
        used = (self.usage * self.codebook_size >= USED).float().mean(dim=1)
        errors = self.errors / self.whole().clamp(min=torch.finfo(torch.float32).tiny)
        return {
            f"level{number}_{key}": values[number - 1]
            for key, values in (("usage", used), ("error", errors))
            for number in range(1, self.num_codebooks + 1)
        }

    @torch.no_grad()
    def start(self):
        """Make the codebooks from the sampled frames by k-means, alike on all ranks.

        Raises:
            DataError: There are fewer frames than codes.
        """
        vectors = self.sample.gather(self.sums.new_zeros(0, self.input_size))
        if len(vectors) < self.codebook_size:
            raise DataError(
                f"{len(vectors)} frames for {self.codebook_size} codes: k-means wants "
                "more speech, or a smaller codebook_size"
            )
        generator = torch.Generator(vectors.device).manual_seed(self.seed)
        ones = torch.ones_like(vectors[:, 0])

        def visit(book, x):
            logging.info(
                f"k-means, codebook {book + 1} of {self.num_codebooks}: "
                f"{self.codebook_size} codes of {len(x)} frames"
            )
            codebook = kmeans(x, self.codebook_size, generator)
            codes = nearest(x, codebook)
            counts, sums = sums_by_code(x, ones, codes, self.codebook_size)
            self.usage[book] = counts / len(x)
            self.sums[book] = sums / len(x)
            self.errors[book] = (x - codebook[codes]).square().sum(dim=1).mean()
            self.variances[book] = x.var(dim=0, correction=0).sum()
            return codebook[codes]

        self.walk(vectors, visit)
        if torch.distributed.is_initialized():  # processors round differently
            for buffer in (self.usage, self.sums, self.errors, self.variances):
                torch.distributed.broadcast(buffer, 0)
        self.sample = FrameSample(self.sample.size)
        self.started.fill_(1.0)
        self.ready = True
