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
        labels) and ``agree`` (share of frames whose label is the same as that of the
        first objective of the head).
    """
    code_books = [book for book in books if isinstance(book, BookTally)]
    vector_books = [book for book in books if isinstance(book, VectorBook)]
    values: dict[str, list[torch.Tensor]] = {}
    squares: dict[str, torch.Tensor] = {}
    total_books = Counter(name for book in code_books for name in book.names)

    def add(key, name, value):
        values.setdefault(f"{key}_{name}", []).append(value)

    for book, tally in zip(code_books, sum_tallies([x.tally for x in code_books])):
        means = tally.sums / tally.frames.clamp(min=1.0)[:, None]
        none = tally.frames == 0
        means = means.masked_fill(none[:, None], torch.nan)
        for row, name in enumerate(book.names):
            sums = dict(zip(SUMS, tally.sums[row]))
            squares[name] = squares.get(name, 0.0) + sums["grad_square"]
            mean = dict(zip(SUMS, means[row]))
            keys = ("loss", "acc", "hit", "label_entropy", "score_std")
            for key in keys if book.soft[row] else keys[:2]:
                add(key, name, mean[key])
            if row > 0:
                add("agree", name, mean["agree"])
            use = perplexity(tally.label_counts[row])
            add("label_ppl", name, use.masked_fill(none[row], torch.nan))
            seen = len(values[f"label_ppl_{name}"]) - 1
            number = seen % (total_books[name] // copies) + 1
            if windows is not None:
                window = windows.add(name, number, tally.label_counts[row])
                use = perplexity(window)
                add("window_ppl", name, use)
            if name in by_level:
                add(f"level{number}_acc", name, mean["acc"])
                add(f"level{number}_ppl", name, use)
            for key, measure, counts in (
                ("label_cov", coverage, tally.label_counts),
                ("pred_ppl", perplexity, tally.predicted_counts),
                ("pred_cov", coverage, tally.predicted_counts),
            ):
                add(key, name, measure(counts[row]).masked_fill(none[row], torch.nan))
    joint = sum_tallies([x.tally for x in vector_books])  # in double precision
    for (name, own), whole in zip(vector_books, joint):
        squares[name] = squares.get(name, 0.0) + whole.grad_square.to(own.loss)
        none = whole.frames == 0
        for key, value in (
            ("loss", whole.loss / whole.frames.clamp(min=1.0)),
            ("target_std", spread(whole.frames, whole.targets)),
            ("pred_std", spread(whole.frames, whole.predictions)),
        ):
            add(key, name, value.masked_fill(none, torch.nan).to(own.loss))
    stats = {key: torch.stack(several).mean() for key, several in values.items()}
    if gradients and len(squares) > 1:
        norms = {name: square.sqrt() for name, square in squares.items()}
        total = reduce(torch.add, norms.values())
        total = total.clamp(min=torch.finfo(torch.float32).tiny)
        stats.update({f"grad_share_{name}": x / total for name, x in norms.items()})
    return stats
