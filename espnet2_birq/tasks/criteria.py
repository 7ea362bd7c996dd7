"""Criteria: statistics by which ESPnet selects models, stops early and sets the rate.

ESPnet ignores the best_model_criterion of an unknown statistic, so that there is no model
in the end, and fails at others after the first epoch, before saving it.
"""

import argparse
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
from espnet2.tasks.abs_task import scheduler_classes

from espnet2_birq.errors import ConfigError

PHASES, MODES = ("train", "valid"), ("min", "max")
# Part of ESPnet's default, for models that have an accuracy
OPTIONAL = {("train", "acc"), ("valid", "acc")}
ALWAYS = ("time", "total_count")  # added by ESPnet at the end of an epoch


class Criterion(NamedTuple):
    """A statistic that an option names."""

    option: str
    phase: str
    name: str


def read_criteria(args: argparse.Namespace) -> list[Criterion]:
    """Return the criteria that the options of a training name, and ESPnet will use.

    Raises:
        ConfigError: One of them has another form.
    """
    found = [_read("best_model_criterion", one) for one in args.best_model_criterion]
    if args.patience is not None:
        found.append(_read("early_stopping_criterion", args.early_stopping_criterion))
    scheduler = scheduler_classes.get(args.scheduler)
    if scheduler is not None and issubclass(scheduler, AbsValEpochStepScheduler):
        # ESPnet's option has no mode: the scheduler has.
        pair = [*args.val_scheduler_criterion, MODES[0]]
        found.append(_read("val_scheduler_criterion", pair))
    return found


def _read(option: str, words: Sequence[str]) -> Criterion:
    if len(words) != 3 or words[0] not in PHASES or words[2] not in MODES:
        raise ConfigError(
            f"{option} {words}: give train or valid, the name of a statistic, and min or "
            "max, e.g. valid loss min"
        )
    return Criterion(option, *words[:2])


def check_statistics(
    criteria: Sequence[Criterion], phase: str, statistics: Collection[str]
) -> None:
    """Check after a phase of an epoch that it has the statistics of the criteria.

    Args:
        criteria: The criteria.
        phase: "train" or "valid".
        statistics: Names of its statistics.

    Raises:
        ConfigError: There is no such statistic.
    """
    there = [*statistics, *ALWAYS]
    for option, where, name in criteria:
        if where != phase or name in there or (where, name) in OPTIONAL:
            continue
        close = ", ".join(get_close_matches(name, there, n=5, cutoff=0.0))
        raise ConfigError(
            f"{option}: {phase} has no statistic {name}, but e.g. {close}; correct it: the "
            "same command with --resume true goes on from here"
        )
