"""Schedules over optimizer updates, for weights and temperatures."""

import math
from typing import Any

import numpy as np

from espnet2_birq.errors import ConfigError


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
            self.points = [(int(update), float(value)) for update, value in pairs]
        except (TypeError, ValueError):
            self.points = []
        updates = [update for update, _ in self.points]
        if (
            not updates
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


def weight_schedule(name: str, points: float | list) -> Schedule:
    """Make the schedule of a weight, which is nowhere negative.

    Raises:
        ConfigError: It is, or see Schedule.
    """
    schedule = Schedule(points)
    if schedule.least < 0:
        raise ConfigError(f"{name} is at least 0, got {schedule}")
    return schedule
