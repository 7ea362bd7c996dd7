"""Sums over the ranks of a distributed training."""

import torch


def world_size() -> int:
    """Return the number of ranks."""
    if not torch.distributed.is_initialized():
        return 1
    return torch.distributed.get_world_size()


def rank() -> int:
    """Return the number of this rank, counted from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def gather[T](value: T) -> list[T]:
    """Return a value of every rank; it is pickled."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all ranks in one message; detached."""
    if not torch.distributed.is_initialized():
        return values
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    return total
