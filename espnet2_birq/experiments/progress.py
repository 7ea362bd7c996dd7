"""Progress and estimated remaining time of a training run."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from espnet2_birq import config
from espnet2_birq.experiments.training_log import TrainingLog

RECENT = 10  # intervals of the log used for the pace


class Progress(NamedTuple):
    """Progress according to the last lines of a train.log."""

    done: int  # updates
    total: int | None  # None: not known
    loss: float
    seconds_left: float | None  # None: not known; without validation

    def __str__(self) -> str:
        if self.total is None or self.seconds_left is None:
            return f"update {self.done}, loss {self.loss:.2f}"
        if self.done >= self.total:
            return f"all {self.total} updates done, loss {self.loss:.2f}"
        return (
            f"update {self.done} of {self.total}, loss {self.loss:.2f}, "
            f"about {time_words(self.seconds_left)} left"
        )


def time_words(seconds: float) -> str:
    """Format a time in its largest units."""
    if not math.isfinite(seconds):
        return "an unknown time"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the options in an experiment's config.yaml; see config.read_config."""
    return vars(config.read_config(folder / "config.yaml"))


def progress_of(log: TrainingLog, folder: Path) -> Progress:
    """Compare a log with the config.yaml of a possibly running experiment.

    Args:
        log: Training log of the experiment.
        folder: Experiment, e.g. exp/ssl_train_birq_raw.
    """
    conf = read_config(folder)
    total = left = None
    batches = config.count_of(conf, "num_iters_per_epoch") or log.epoch_batches
    epochs, accum_grad = (
        config.count_of(conf, x, 1) for x in ("max_epoch", "accum_grad")
    )
    if batches is not None:
        total = epochs * (batches // accum_grad)
        recent = log.intervals[-RECENT:]
        paces = [one["train_time"] for one in recent if "train_time" in one]
        if paces:
            pace = sum(paces) / len(paces)  # seconds per update, as ESPnet counts
            left = max(0, total - log.last_update) * pace
    loss = log.intervals[-1].get("loss", math.nan)
    return Progress(log.last_update, total, loss, left)
