"""Read ESPnet's train.log."""

import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from espnet2_birq.config import count_of, read_config
from espnet2_birq.errors import DataError

# ESPnet sometimes omits the comma between two values: match numbers only.
VALUE = re.compile(r"([a-zA-Z][\w]*?)=(-?(?:\d+\.?\d*(?:e[+-]\d\d)?|nan|inf))")
STEPS = re.compile(r"INFO: (\d{1,9})epoch:train:(\d{1,9})-(\d{1,9})batch: (.*)")
EPOCH = re.compile(
    r"INFO: (\d{1,9})epoch results: \[train\] (.*?)(?:, \[valid\] (.*))?$"
)
SAMPLER = re.compile(r"\[train\] Batch sampler: .*\(N-batch=(\d{1,9})")
STAMP = re.compile(r"^\[[^\]\n]*\] (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.MULTILINE)


class TrainingLog(NamedTuple):
    """Logged values in training order."""

    updates: list[int]  # optimizer updates made by the end of each logged interval
    intervals: list[dict[str, float]]  # means over these intervals
    train: list[dict[str, float]]  # means over each epoch
    valid: list[dict[str, float]]  # of the validation set, after each epoch
    seconds: int  # wall time from the first line to the last, over all runs
    last_update: int  # updates made by the end of the last epoch or interval
    epoch_batches: int | None = None  # batches in all data, by ESPnet's sampler
    ends: Sequence[int] = ()  # updates made by the end of each epoch


def objectives_of(values: dict[str, float]) -> list[str]:
    """Return the names of the objectives in an interval or epoch, in order."""
    keys = [key for key in values if key.startswith("loss_") and key != "loss_scale"]
    return [key.removeprefix("loss_") for key in keys]


def all_objectives(log: TrainingLog) -> list[str]:
    """Return the names of all objectives of a log, also of those that start or stop."""
    logged = (*log.intervals, *log.train)
    return list(dict.fromkeys(x for values in logged for x in objectives_of(values)))


def last_of(name: str, logged: Sequence[dict[str, float]]) -> int | None:
    """Return the index of the last interval or epoch with an objective, if any."""
    found = [n for n, values in enumerate(logged) if f"loss_{name}" in values]
    return found[-1] if found else None


def read_training_log(folder: Path) -> TrainingLog:
    """Read an experiment's train.log, including earlier, interrupted runs.

    ESPnet logs iterations; ``accum_grad`` of them (in config.yaml) make an update,
    and the remainder at the end of an epoch makes none.

    Args:
        folder: Experiment, e.g. exp/ssl_train_birq_raw.

    Returns:
        The log. Interrupted and repeated epochs count once.

    Raises:
        DataError: There is no log, or it contains no update.
    """
    files = log_files(folder)
    steps: dict[tuple[int, int], dict[str, float]] = {}
    train, valid = {}, {}
    seconds, epoch_batches = 0, None
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        if times := times_of(text):
            seconds += int(times[-1] - times[0])
        if sizes := SAMPLER.findall(text):
            epoch_batches = int(sizes[-1])
        for line in text.splitlines():
            if match := STEPS.search(line):
                epoch, begin, update = (int(match[n]) for n in (1, 2, 3))
                # A resumed epoch repeats batches that its earlier log contains.
                for key in [x for x in steps if x[0] == epoch and x[1] >= begin]:
                    del steps[key]
                steps[epoch, update] = _values(match[4])
            elif match := EPOCH.search(line):
                train[int(match[1])] = _values(match[2])
                valid[int(match[1])] = _values(match[3] or "")
    if not train and not steps:
        raise DataError(f"{files[-1]}: contains no update; see there what stopped it")
    accum_grad = _accum_grad(folder)
    batches = _batches(steps, train)
    before, total = {}, 0  # updates before an epoch
    for epoch in sorted(batches):
        before[epoch] = total
        total += batches[epoch] // accum_grad
    intervals = [steps[key] for key in sorted(steps)]
    updates = [before[epoch] + batch // accum_grad for epoch, batch in sorted(steps)]
    if not steps:  # epochs shorter than log_interval: only their means are logged
        intervals = [train[epoch] for epoch in sorted(train)]
        updates = [before[e] + batches[e] // accum_grad for e in sorted(train)]
    return TrainingLog(
        updates=updates,
        intervals=intervals,
        train=[train[epoch] for epoch in sorted(train)],
        valid=[valid[epoch] for epoch in sorted(valid)],
        seconds=seconds,
        last_update=total,
        epoch_batches=epoch_batches,
        ends=[before[e] + batches[e] // accum_grad for e in sorted(train)],
    )


def times_of(text: str) -> list[float]:
    """Return the times of a log's lines, in seconds since 1970."""
    times = []
    for stamp in STAMP.findall(text):
        try:
            times.append(datetime.fromisoformat(stamp).timestamp())
        except (ValueError, OverflowError):
            pass  # a damaged line
    return times


def log_files(folder: Path) -> list[Path]:
    """Return an experiment's logs, ending with that of the last run.

    Raises:
        DataError: There is no log.
    """
    # ESPnet's launcher renames the log of the previous run to train.1.log, and so on.
    files = sorted(folder.glob("train*.log"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise DataError(
            f"{folder}/train.log: no such file; run the training stage, "
            "or redirect the output of ssl_train to it"
        )
    return files


def _accum_grad(folder: Path) -> int:
    config = folder / "config.yaml"
    if not config.is_file():
        return 1
    return count_of(vars(read_config(config)), "accum_grad", 1)


def _batches(steps: dict, train: dict) -> dict[int, int]:
    """Return the batches of each epoch; for unfinished epochs, those logged."""
    batches, before = {}, 0
    for epoch in sorted({key[0] for key in steps} | set(train)):
        logged = max((batch for one, batch in steps if one == epoch), default=0)
        total = train.get(epoch, {}).get("total_count", before + logged)
        total = int(total) if math.isfinite(total) else before + logged
        batches[epoch], before = total - before, total
    return batches


def _values(text: str) -> dict[str, float]:
    return {key: float(value) for key, value in VALUE.findall(text)}
