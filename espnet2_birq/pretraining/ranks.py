"""Sums over the ranks of a distributed training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from espnet2_birq.errors import RankError

# Part of gloo's messages about a lost peer, since its errors have no class of their own
GLOO = "/gloo/"


_alone = False  # within alone()


@contextmanager
def alone() -> Iterator[None]:
    """Compute as the only rank, for what other ranks take no part in."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world_size() -> int:
    """Return the number of ranks."""
    if _alone or not torch.distributed.is_initialized():
        return 1
    return torch.distributed.get_world_size()


def rank() -> int:
    """Return the number of this rank, counted from 0."""
    if _alone or not torch.distributed.is_initialized():
        return 0
    return torch.distributed.get_rank()


def gather[T](value: T) -> list[T]:
    """Gather a value, which is pickled, from every rank."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def telling_of_others() -> Iterator[None]:
    """Report in one line that another rank has ended.

    Raises:
        RankError: Another rank has ended. Its own messages say why, if it had time.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or GLOO in str(error):
            raise RankError(
                f"another rank has ended ({' '.join(str(error).split())[-120:]}); see its "
                "messages (a kill, for lack of memory, leaves none); the same command "
                "resumes from the last saved state"
            ) from error
        raise


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all ranks in one all-reduce, detached; a single rank's as it is."""
    if _alone or not torch.distributed.is_initialized():
        return values
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def idle(module: torch.nn.Module, skip: tuple[str, ...] = ()) -> torch.Tensor:
    """Return 0 with a zero gradient for a module's parameters.

    Distributed training waits for a gradient of every parameter.

    Args:
        module: Module that otherwise takes no part in the loss.
        skip: Prefixes of the names of parameters that do.
    """
    rest = [
        parameter.sum()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not name.startswith(skip)
    ]
    return 0.0 * torch.stack(rest).sum() if rest else torch.zeros(())


class RowPicker:
    """Picks rows spread evenly over the good rows of all ranks.

    They are the same rows however a batch is divided among ranks. No value is read on the
    host, which would have to wait for a GPU.

    Args:
        good: (M,) bool, rows of this rank to choose from.
    """

    def __init__(self, good: torch.Tensor):
        self.order = good.cumsum(0)
        counts = self.order.new_zeros(world_size())
        counts[rank()] = self.order[-1]
        counts = sum_over_ranks(counts)
        self.before, self.total = counts[: rank()].sum(), counts.sum()

    def pick(self, vectors: torch.Tensor, turns: range) -> torch.Tensor:
        """Pick a row for each turn.

        Args:
            vectors: (M, D) vectors of this rank.
            turns: K numbers. Any n consecutive numbers pick different rows if there are
                3 n good ones.

        Returns:
            (K, D) rows, zero where another rank has the row: sum them over the ranks.
        """
        # Multiples of the golden ratio, modulo 1, are spread evenly wherever they begin.
        number = torch.arange(
            turns.start, turns.stop, device=vectors.device, dtype=torch.float64
        )
        place = (number * 0.6180339887498949 % 1.0 * self.total).long() - self.before
        row = torch.searchsorted(self.order, place + 1).clamp(max=len(vectors) - 1)
        here = (place >= 0) & (place < self.order[-1])
        return torch.where(here[:, None], vectors[row], 0.0)
