"""What ESPnet's train.log says of a training run."""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple

from espnet2_birq.errors import DataError

# ESPnet sometimes leaves out the comma between two values, so numbers end by themselves.
VALUE = re.compile(r"([a-zA-Z][\w]*?)=(-?(?:\d+\.?\d*(?:e[+-]\d\d)?|nan|inf))")
STEPS = re.compile(r"INFO: (\d+)epoch:train:(\d+)-(\d+)batch: (.*)")
EPOCH = re.compile(r"INFO: (\d+)epoch results: \[train\] (.*?)(?:, \[valid\] (.*))?$")
ELAPSED = re.compile(r"^# Ended \(code \d+\).* elapsed time (\d+) seconds")


class TrainingLog(NamedTuple):
    """Values in the order of training."""

    updates: List[int]  # last update of each logged interval, counted from 1
    intervals: List[Dict[str, float]]  # means over these intervals
    train: List[Dict[str, float]]  # means over each epoch
    valid: List[Dict[str, float]]  # of the validation set, after each epoch
    seconds: int  # wall time of the runs that ended


def read_training_log(folder: Path) -> TrainingLog:
    """Read an experiment's train.log, and those of its earlier, interrupted runs.

    Args:
        folder: The experiment, e.g. exp/ssl_train_birq_raw.

    Returns:
        The log. An epoch that was interrupted and repeated counts once.

    Raises:
        DataError: There is no log, or none of training.
    """
    # ESPnet's launcher renames the log of the run before to train.1.log, and so on.
    files = sorted(folder.glob("train*.log"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise DataError(f"{folder}/train.log: no such file; run the training stage")
    steps, train, valid = {}, {}, {}
    seconds = 0
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := STEPS.search(line):
                epoch, first, last = map(int, match.groups()[:3])
                steps[epoch, last] = (first, _values(match[4]))
            elif match := EPOCH.search(line):
                train[int(match[1])] = _values(match[2])
                valid[int(match[1])] = _values(match[3] or "")
            elif match := ELAPSED.search(line):
                seconds += int(match[1])
    if not steps:
        raise DataError(f"{files[-1]}: tells of no update; see what stopped it there")
    done = 0
    updates, lengths = [], {}
    for epoch, last in sorted(steps):
        lengths[epoch] = max(lengths.get(epoch, 0), last)
        done = sum(length for e, length in lengths.items() if e < epoch)
        updates.append(done + last)
    return TrainingLog(
        updates=updates,
        intervals=[steps[key][1] for key in sorted(steps)],
        train=[train[epoch] for epoch in sorted(train)],
        valid=[valid[epoch] for epoch in sorted(valid)],
        seconds=seconds,
    )


def _values(text: str) -> Dict[str, float]:
    return {key: float(value) for key, value in VALUE.findall(text)}
