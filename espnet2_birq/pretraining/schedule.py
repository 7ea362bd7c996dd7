"""Schedules over optimizer updates, for weights and temperatures."""

import math
from typing import Any

import numpy as np

from espnet2_birq.errors import ConfigError

MOST_UPDATES = 2**53  # beyond it, floating-point numbers skip some


class Schedule:
    """A constant or piecewise linear function of the update.

    Args:
        points: A number, or ``[[update, value], ...]`` with increasing updates;
            constant before the first and after the last point.

    Raises:
        ConfigError: ``points`` is neither.

    Example:
        >>> Schedule([[0, 0.0], [1000, 0.1]]).at(500)
        0.05
    """

    def __init__(self, points: float | list):
        pairs: Any = points  # whatever the configuration says
        if isinstance(points, (int, float)) and not isinstance(points, bool):
            pairs = [[0, points]]
        try:
            self.points = [_point(*pair) for pair in pairs]
        except (TypeError, ValueError, OverflowError):
            self.points = []
        updates = [update for update, _ in self.points]
        if (
            not updates
            or max(map(abs, updates)) > MOST_UPDATES
            or any(b <= a for a, b in zip(updates, updates[1:]))
            or not all(math.isfinite(value) for _, value in self.points)
        ):
            raise ConfigError(
                "a schedule is a number or [[update, value], ...], finite, with rising "
                f"updates, got {points!r} (YAML reads 1e-3 as a word: write 0.001)"
            )

    def at(self, update: int) -> float:
        """Return the value at an update, counted from 0."""
        updates, values = zip(*self.points)
        return float(np.interp(update, updates, values))

    @property
    def last(self) -> float:
        """The value once the schedule has ended."""
        return self.points[-1][1]

    @property
    def least(self) -> float:
        """The smallest value."""
        return min(value for _, value in self.points)

    def __repr__(self):
        if len(self.points) == 1:
            return str(self.points[0][1])
        return str([list(point) for point in self.points])


def _point(update: Any, value: Any) -> tuple[int, float]:
    if isinstance(update, bool) or isinstance(value, bool):
        raise TypeError("true and false are no numbers")
    return int(update), float(value)


def weight_schedule(name: str, points: float | list) -> Schedule:
    """Make the schedule of a weight, which is nowhere negative.

    Raises:
        ConfigError: It is, or see Schedule.
    """
    schedule = Schedule(points)
    if schedule.least < 0:
        raise ConfigError(f"{name} is at least 0, got {schedule}")
    return schedule


def first_zero(one: Schedule, other: Schedule) -> int | None:
    """Return the first update in which two weights are both 0; None if there is none."""
    edges = {max(0, update) for update, _ in (*one.points, *other.points)} | {0}
    # Weights are straight between edges and nowhere negative: if they are 0 inside, they
    # are throughout.
    updates = sorted(edges | {edge + 1 for edge in edges})
    return next((x for x in updates if one.at(x) == other.at(x) == 0), None)
