"""In which updates an objective, or a tokenizer, is active."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.schedule import MOST_UPDATES

LONGEST = 10_000_000  # updates to check; more than any training makes


class When(NamedTuple):
    """Updates in which an objective or tokenizer is active: `length` of every `every`."""

    start: int = 0  # first update, counted from 0
    stop: int | None = None  # first update after the last; None: never
    every: int = 1  # period in updates, from `start` on
    length: int = 1  # number of active updates, the first ones of each period
    once: dict[str, float] | None = None  # objective: prediction perplexity to reach

    def includes(self, update: int) -> bool:
        """Whether an update is among them."""
        on = update >= self.start and (self.stop is None or update < self.stop)
        return on and (update - self.start) % self.every < self.length


def rest(modules: Iterable[torch.nn.Module]):
    """Drop the gradients of modules, so that the optimizer leaves them unchanged.

    The zero gradient that other ranks wait for is not enough: momentum and weight decay
    would still move the parameters.
    """
    for parameter in (p for module in modules for p in module.parameters()):
        parameter.grad = None


def is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step, in progress, leaves the parameters as they are.

    With a loss scale, a fused optimizer is stepped even if a gradient is not finite, and
    told so: GradScaler.step sets ``found_inf``.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def parse_when(conf: dict[str, Any]) -> When:
    """Read ``when`` of the configuration.

    Raises:
        ConfigError: Unknown key or invalid value.
    """
    for key in conf:
        if key not in When._fields:
            raise ConfigError(
                f"unknown key of 'when' {key!r}, use one of {list(When._fields)}"
            )
    when = When(**conf)
    once = when.once
    if once is not None and not (
        isinstance(once, dict)
        and len(once) == 1
        and all(type(x) in (int, float) and 1 <= x < math.inf for x in once.values())
    ):
        raise ConfigError(
            "when: once is {objective: perplexity of its predictions, 1 or more}, got "
            f"{once!r}"
        )
    numbers = [when.start, when.every, when.length]
    numbers.append(0 if when.stop is None else when.stop)
    if (
        not all(type(x) is int and 0 <= x <= MOST_UPDATES for x in numbers)
        or not 1 <= when.length <= when.every
        or when.stop is not None
        and when.stop <= when.start
    ):
        raise ConfigError(
            "when is {start, stop, every, length, once}, the first four in updates, "
            f"stop above start, length from 1 to every, got {conf}"
        )
    return when


def check_always_on(whens: list[When]):
    """Check that something is active in every update.

    Raises:
        ConfigError: Nothing is active in an update; the message names the first.
    """
    whens = [when for when in whens if when.once is None]  # others may never start
    period = min(math.lcm(*(when.every for when in whens)), LONGEST)
    edges = {0} | {when.start for when in whens} | {when.stop or 0 for when in whens}
    for edge in sorted(edges):
        updates = np.arange(edge, edge + period)
        on = np.zeros(period, dtype=bool)
        for when in whens:
            mine = (updates - when.start) % when.every < when.length
            mine &= updates >= when.start
            on |= mine if when.stop is None else mine & (updates < when.stop)
        if not on.all():
            raise ConfigError(
                f"objectives: none is on in update {updates[~on][0]}; change a 'when', "
                "or add an objective without one"
            )
