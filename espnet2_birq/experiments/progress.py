"""Progress and estimated remaining time of a training."""

from pathlib import Path
from typing import NamedTuple

import yaml

from espnet2_birq.experiments.training_log import read_training_log

RECENT = 10  # intervals of the log used for the pace


class Progress(NamedTuple):
    """Progress according to the last lines of a train.log."""

    done: int  # updates
    total: int | None  # None: not known, as an epoch is all of the data
    loss: float
    seconds_left: float | None  # likewise; without validation

    def __str__(self) -> str:
        if self.total is None or self.seconds_left is None:
            return f"update {self.done}, loss {self.loss:.2f}"
        if self.done >= self.total:
            return f"all {self.total} updates done, loss {self.loss:.2f}"
        minutes, seconds = divmod(round(self.seconds_left), 60)
        left = f"{minutes} min" if minutes else f"{seconds} s"
        return (
            f"update {self.done} of {self.total}, loss {self.loss:.2f}, "
            f"about {left} left"
        )


def read_progress(folder: Path) -> Progress:
    """Read train.log and config.yaml of a possibly running experiment.

    Args:
        folder: Experiment, e.g. exp/ssl_train_birq_raw.

    Raises:
        DataError: There is no log yet, or no update in it.
    """
    log = read_training_log(folder)
    conf = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    total = left = None
    if conf["num_iters_per_epoch"] is not None:
        total = conf["max_epoch"] * (conf["num_iters_per_epoch"] // conf["accum_grad"])
        paces = [interval["train_time"] for interval in log.intervals[-RECENT:]]
        pace = sum(paces) / len(paces) * conf["accum_grad"]  # seconds an update
        left = max(0, total - log.last_update) * pace
    return Progress(log.last_update, total, log.intervals[-1]["loss"], left)
