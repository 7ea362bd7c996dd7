"""Schedules by hand-computed values."""

import pytest

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.schedule import Schedule


def test_a_number_stays():
    assert Schedule(0.1).at(0) == Schedule(0.1).at(10**6) == 0.1


def test_straight_lines_between_points():
    schedule = Schedule([[10, 1.0], [20, 3.0], [30, 0.0]])
    values = [schedule.at(update) for update in (0, 10, 15, 20, 25, 30, 99)]
    assert values == [1.0, 1.0, 2.0, 3.0, 1.5, 0.0, 0.0]


@pytest.mark.parametrize("wrong", ["3e-3", [], [[0, 1], [0, 2]], [1, 2], None, True])
def test_errors(wrong):
    with pytest.raises(ConfigError, match="a schedule is a number or"):
        Schedule(wrong)
