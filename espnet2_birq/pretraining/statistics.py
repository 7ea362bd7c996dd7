"""Training statistics per objective, over all ranks.

All values are tensors computed from sums that the losses accumulate: codes are not read
again, and nothing synchronises with a GPU.
"""

from collections import Counter
from collections.abc import Collection
from functools import reduce
from typing import NamedTuple

import torch

from espnet2_birq.pretraining.diagnostics import Windows
from espnet2_birq.pretraining.losses.cross_entropy import SUMS, Tally
from espnet2_birq.pretraining.losses.regression import VectorTally, spread
from espnet2_birq.pretraining.ranks import sum_over_ranks


class BookTally(NamedTuple):
    """The tally of one codebook and the objectives it covers."""

    names: list[str]  # L objectives
    soft: list[bool]  # whether their labels are soft
    tally: Tally


class VectorBook(NamedTuple):
    """The tally of an objective whose labels are vectors."""

    name: str
    tally: VectorTally


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """Compute the perplexity of code usage, the effective number of codes.

    Args:
        counts: (..., V) count of each code.

    Returns:
        (...) perplexity between 1 and V.
    """
    shares = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1.0)
    return torch.special.entr(shares).sum(dim=-1).exp()


def coverage(counts: torch.Tensor) -> torch.Tensor:
    """Compute the share of codes that occur; (..., V) to (...) between 0 and 1."""
    return (counts > 0).float().mean(dim=-1)


def sum_tallies[T: (Tally, VectorTally)](tallies: list[T]) -> list[T]:
    """Sum tallies of one kind over all ranks in one all-reduce."""
    if not tallies:
        return []
    parts = [part for tally in tallies for part in tally]
    message = sum_over_ranks(torch.cat([part.flatten() for part in parts]))
    summed = iter(
        total.view_as(part)
        for total, part in zip(message.split([part.numel() for part in parts]), parts)
    )
    return [type(tally)(*(next(summed) for _ in tally)) for tally in tallies]


@torch.no_grad()
def objective_statistics(
    books: list[BookTally | VectorBook],
    gradients: bool = True,
    windows: Windows | None = None,
    by_level: Collection[str] = (),
    copies: int = 1,
) -> dict[str, torch.Tensor]:
    """Compute statistics of every objective at the masked frames of a step.

    Perplexity and coverage are per step: M frames cannot use more than M
    codes, so compare them only at equal batch sizes. An objective that labelled no frame
    of the step, on any rank, has NaN (but for the window), which ESPnet's averages leave out.

    Args:
        books: Sums over frames; codebooks of one objective are averaged.
        gradients: Whether gradients were computed, as needed for ``grad_share``.
        windows: Label counts of earlier steps, to which this step's are added.
        by_level: Objectives whose codebooks are also listed one by one, as
            ``level<n>_acc`` and ``level<n>_ppl`` (of labels, over the window if there
            is one).
        copies: Masked copies of the batch, each with its books, one copy after another.

    Returns:
        For each objective: ``loss_<name>`` (nats, unweighted), ``acc`` (share of
        frames whose likeliest prediction is the label), ``label_ppl``, ``label_cov``,
        ``pred_ppl``, ``pred_cov`` (codebook perplexity and coverage of labels and
        predictions); with windows ``window_ppl``, the label perplexity over the last
        10,000 labelled frames; for soft labels ``hit`` (share of frames whose label is the
        nearest code), ``label_entropy`` (nats, of the label given the frame) and
        ``score_std`` (standard deviation of a frame's scores over the codes; Gumbel
        noise has 1.28); for vector labels ``loss``, ``target_std`` and ``pred_std``
        (standard deviation over frames of targets and predictions, averaged over their
        values); and with several objectives ``grad_share`` (gradient norm at the
        encoder's output as a share of the objectives' sum, without the path through
        labels) and ``agree`` (share of the frames with both labels whose label is the
        same as that of the first objective of the head).
    """
    found = _Found()
    codes = [book for book in books if isinstance(book, BookTally)]
    _add_codes(found, codes, windows, by_level, copies)
    _add_vectors(found, [book for book in books if isinstance(book, VectorBook)])
    stats = {key: torch.stack(each).mean() for key, each in found.values.items()}
    if gradients and len(found.squares) > 1:
        stats.update(_gradient_shares(found.squares))
    return stats


class _Found:
    """Values of each statistic, one per codebook, and squared gradient norms by name."""

    def __init__(self):
        self.values: dict[str, list[torch.Tensor]] = {}
        self.squares: dict[str, torch.Tensor] = {}

    def add(self, key: str, name: str, value: torch.Tensor) -> None:
        self.values.setdefault(f"{key}_{name}", []).append(value)

    def add_square(self, name: str, square: torch.Tensor) -> None:
        self.squares[name] = self.squares.get(name, 0.0) + square

    def count(self, key: str, name: str) -> int:
        return len(self.values.get(f"{key}_{name}", ()))


def _add_codes(
    found: _Found,
    books: list[BookTally],
    windows: Windows | None,
    by_level: Collection[str],
    copies: int,
) -> None:
    """Add statistics of objectives with codes; see objective_statistics()."""
    all_books = Counter(name for book in books for name in book.names)
    for book, tally in zip(books, sum_tallies([x.tally for x in books])):
        means = tally.sums / tally.frames.clamp(min=1.0)[:, None]
        none = tally.frames == 0
        means = means.masked_fill(none[:, None], torch.nan)
        for row, name in enumerate(book.names):
            mean = dict(zip(SUMS, means[row]))
            # Books of the first copy, of the second, ...: in each, level 1, level 2, ...
            number = found.count("loss", name) % (all_books[name] // copies) + 1
            keys = ("loss", "acc", "hit", "label_entropy", "score_std")
            for key in keys if book.soft[row] else keys[:2]:
                found.add(key, name, mean[key])
            if row > 0:
                found.add("agree", name, mean["agree"] / mean["both"])
            found.add_square(name, tally.sums[row, SUMS.index("grad_square")])
            labels, predicted = tally.label_counts[row], tally.predicted_counts[row]
            use = perplexity(labels)
            found.add("label_ppl", name, use.masked_fill(none[row], torch.nan))
            if windows is not None:
                use = perplexity(windows.add(name, number, labels))
                found.add("window_ppl", name, use)
            if name in by_level:
                found.add(f"level{number}_acc", name, mean["acc"])
                found.add(f"level{number}_ppl", name, use)
            for key, value in (
                ("label_cov", coverage(labels)),
                ("pred_ppl", perplexity(predicted)),
                ("pred_cov", coverage(predicted)),
            ):
                found.add(key, name, value.masked_fill(none[row], torch.nan))


def _add_vectors(found: _Found, books: list[VectorBook]) -> None:
    """Add statistics of objectives with vectors; see objective_statistics()."""
    joint = sum_tallies([x.tally for x in books])  # in double precision
    for (name, own), whole in zip(books, joint):
        found.add_square(name, whole.grad_square.to(own.loss))
        none = whole.frames == 0
        for key, value in (
            ("loss", whole.loss / whole.frames.clamp(min=1.0)),
            ("target_std", spread(whole.frames, whole.targets)),
            ("pred_std", spread(whole.frames, whole.predictions)),
        ):
            found.add(key, name, value.masked_fill(none, torch.nan).to(own.loss))


def _gradient_shares(squares: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return each objective's gradient norm as a share of the sum of all."""
    norms = {name: square.sqrt() for name, square in squares.items()}
    total = reduce(torch.add, norms.values())
    total = total.clamp(min=torch.finfo(torch.float32).tiny)
    return {f"grad_share_{name}": norm / total for name, norm in norms.items()}


class StepStatistics:
    """Statistics of a step's predictions, collected from its masked copies.

    Args:
        copies: Number of masked copies.

    Attributes:
        paths: Gradient norms of one copy; see diagnostics.GradientPaths.
    """

    def __init__(self, copies: int):
        self.copies = copies
        self.paths: dict[str, torch.Tensor] = {}
        self._books: list[BookTally | VectorBook] = []
        self._sums: dict[str, torch.Tensor] = {}

    def add(
        self,
        books: list[BookTally | VectorBook],
        entropies: dict[str, torch.Tensor],
        mask_share: torch.Tensor,
    ) -> None:
        """Add what one copy has.

        Args:
            books: Sums over its frames.
            entropies: () usage entropy by the objective's name; see usage_entropies().
            mask_share: () share of masked frames.
        """
        self._books += books
        usage = {f"use_ppl_{x}": y.detach().exp() for x, y in entropies.items()}
        for key, value in {**usage, "mask_share": mask_share}.items():
            self._sums[key] = self._sums.get(key, 0.0) + value

    def means(
        self, windows: Windows | None, by_level: Collection[str]
    ) -> dict[str, torch.Tensor]:
        """Return all statistics, averaged over copies; see objective_statistics()."""
        means = {key: value / self.copies for key, value in self._sums.items()}
        of_books = objective_statistics(
            self._books, torch.is_grad_enabled(), windows, by_level, self.copies
        )
        return means | self.paths | of_books
