"""Schedules by hand-computed values."""

import pytest

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.schedule import Schedule, first_zero


def test_a_number_stays():
    assert Schedule(0.1).at(0) == Schedule(0.1).at(10**6) == 0.1


def test_straight_lines_between_points():
    schedule = Schedule([[10, 1.0], [20, 3.0], [30, 0.0]])
    values = [schedule.at(update) for update in (0, 10, 15, 20, 25, 30, 99)]
    assert values == [1.0, 1.0, 2.0, 3.0, 1.5, 0.0, 0.0]


@pytest.mark.parametrize(
    "wrong",
    [
        *("3e-3", [], [[0, 1], [0, 2]], [1, 2], None, True, [[0, True]], [[True, 1]]),
        *([[float("inf"), 1]], [[0, float("inf")]], [[10**400, 1]], [[0, 10**400]]),
        *([[0, 1], [10**20, 2]], [[0]], [[0, 1, 2]], [None]),
    ],
)
def test_errors(wrong):
    with pytest.raises(ConfigError, match="a schedule is a number or"):
        Schedule(wrong)


@pytest.mark.parametrize(
    "one, other, expected",
    [
        (0.0, 0.0, 0),
        (1.0, 0.0, None),
        ([[10, 1.0], [20, 0.0]], [[20, 0.0], [21, 1.0]], 20),  # at a point
        ([[10, 1.0], [19, 0.0]], [[20, 0.0], [21, 1.0]], 19),
        ([[10, 1.0], [20, 0.0]], [[19, 0.0], [20, 1.0]], None),
        ([[5, 0.0], [6, 1.0]], [[3, 1.0], [4, 0.0]], 4),  # between points
        ([[5, 0.0], [6, 1.0]], [[0, 1.0], [4, 1.0], [5, 0.0]], 5),
        ([[3, 1.0], [4, 0.0], [99, 0.0], [100, 1.0]], [[0, 0.0]], 4),
        ([[3, 1.0], [4, 0.0]], [[8, 1.0], [9, 0.0]], 9),  # after the last
        ([[-5, 0.0], [-4, 1.0]], 0.0, None),  # before the first update
    ],
)
def test_the_first_update_without_a_weight(one, other, expected):
    pair = Schedule(one), Schedule(other)
    assert first_zero(*pair) == first_zero(*pair[::-1]) == expected
    zeros = (x for x in range(200) if pair[0].at(x) == pair[1].at(x) == 0)
    assert next(zeros, None) == expected
