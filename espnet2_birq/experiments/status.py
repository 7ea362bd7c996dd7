"""State of an experiment according to its files: running, stopped or finished."""

import itertools
import math
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from espnet2_birq.datadir.stamp import sources, stamp_path
from espnet2_birq.errors import DataError
from espnet2_birq.experiments.progress import (
    Progress,
    progress_of,
    read_config,
    time_words,
)
from espnet2_birq.experiments.training_log import (
    TrainingLog,
    all_objectives,
    last_of,
    log_files,
    objectives_of,
    read_training_log,
    times_of,
)

UNSEEN = "not seen from here"
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "interrupted"
COLLAPSED = (
    4.0  # equals pretraining.collapse.FEWEST (tested), whose module imports PyTorch
)
QUIET = 600.0  # minimum seconds without a line after which training counts as stopped
INTERVALS = 10  # ... or in intervals between lines; validation and saving write none
TAIL = 100_000  # characters at the end of the log that are searched
ERROR = re.compile(
    r"^(?:[\w.]*(?:Error|Exception|Interrupt)\b.*|\w+: error: .*|Killed|Terminated|"
    r".*\b(?:ERROR|CRITICAL): .*)$",
    re.MULTILINE,
)
# run.pl; slurm.pl, queue.pl and pbs.pl
ENDED = re.compile(
    r"^# (?:Ended \(code |Finished at .* with status )(\d+)", re.MULTILINE
)
SIGNALLED = "85"  # exit status of a run that a signal stopped and that can resume
FINISHED = re.compile("The training was finished at|has already reached at max_epoch")
WARNED = re.compile(r"objective '(\w+)' has collapsed")
# Statistics of an objective, for a table
STATISTICS = {
    "loss": "loss",
    "acc": "accuracy",
    "label_ppl": "label ppl",
    "window_ppl": "in 10,000 frames",
    "pred_ppl": "prediction ppl",
}


class State(NamedTuple):
    """State of a training run according to its last log."""

    word: str  # RUNNING, DONE, FAILED or STOPPED
    quiet: float  # seconds since its last line
    error: str | None  # last line that reports an error
    collapsed: list[str]  # objectives named in warnings of a collapse


class Stage(NamedTuple):
    """State of a stage of a recipe."""

    number: int
    name: str
    word: str


def read_state(folder: Path, now: float | None = None) -> State:
    """Read whether training is running, or how it ended.

    Args:
        folder: Experiment.
        now: Time in seconds since 1970; None: the present.

    Raises:
        DataError: There is no log.
    """
    file = log_files(folder)[-1]
    text = file.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    quiet = (time.time() if now is None else now) - file.stat().st_mtime
    errors = ERROR.findall(text)
    ended = ENDED.findall(text)
    if ended:
        word = {"0": DONE, SIGNALLED: STOPPED}.get(ended[-1], FAILED)
    elif FINISHED.search(text):
        word = DONE
    elif quiet > max(QUIET, INTERVALS * _interval(text)):
        word = STOPPED
    else:
        word = RUNNING
    error = errors[-1].strip() if errors else None
    return State(word, max(0.0, quiet), error, sorted(set(WARNED.findall(text))))


def _interval(text: str) -> float:
    """Return the longest time between successive recent lines, in seconds."""
    times = times_of(text)[-20:]
    return max((b - a for a, b in zip(times, times[1:])), default=0.0)


def read_stages(folder: Path, training: str) -> list[Stage]:
    """Read the states of a recipe's stages from the records that they leave.

    Args:
        folder: Pretraining experiment.
        training: State of its training.
    """
    shapes = [Path(x).parent for x in sources(folder) if x.endswith("speech_shape")]
    stats = [find_path(folder, x) for x in shapes] or [
        folder.parent / "ssl_stats_raw" / x for x in ("train", "valid")
    ]
    sets = _made_of(folder, stats)
    org = _made_of(folder, sets)
    data = _made_of(folder, org)
    packed = list(folder.glob("*.zip"))
    return [
        Stage(1, "data", DONE if org or _all(data, "wav.scp") else UNSEEN),
        Stage(3, "format", _recorded(org, sets)),
        Stage(4, "length filter", _recorded(sets, stats)),
        Stage(6, "statistics", _recorded(stats, [folder])),
        Stage(7, "training", training),
        Stage(8, "pack", DONE if packed and _all(packed, None) else "not run"),
    ]


def find_path(folder: Path, path: Path) -> Path:
    """Find a path relative to the recipe, which is a folder above the experiment."""
    for base in (Path.cwd(), *folder.resolve().parents):
        if os.path.exists(base / path):
            return base / path
    return path


def _made_of(folder: Path, made: list[Path]) -> list[Path]:
    """Return the folders of the lists from which some folders were made."""
    lists = [x for one in made for x in sources(one) if x.endswith("wav.scp")]
    return [find_path(folder, Path(x).parent) for x in dict.fromkeys(lists)]


def _all(made: list[Path], file: str | None) -> bool:
    paths = [stamp_path(one) if file is None else one / file for one in made]
    return bool(made) and all(path.is_file() for path in paths)


def _recorded(made: list[Path], later: list[Path]) -> str:
    """Return a stage's state by the records of its output and of later output."""
    if _all(made, None):
        return DONE
    if made and any(one.exists() for one in made):
        return "not finished"
    # Later output without such sources: the given set did not need this stage.
    return UNSEEN if made or not _all(later, None) else "not needed"


def describe(folder: Path, now: float | None = None) -> str:
    """Describe an experiment in about half a screen of text.

    Args:
        folder: Experiment, e.g. exp/ssl_train_birq_raw, running or not.
        now: Time in seconds since 1970; None: the present.

    Raises:
        ConfigError: Its config.yaml is no configuration.
        DataError: The folder has no training log.
    """
    state = read_state(folder, now)
    lines = [f"{folder}: {state.word}, last line {time_words(state.quiet)} ago"]
    try:
        log = read_training_log(folder)
    except DataError:
        lines.append("  updates     none yet")
    else:
        lines += _training(folder, log)
        collapsed = _collapsed(log, state)
        lines.append(f"  collapse    {collapsed}")
    lines.append(f"  checkpoint  {_checkpoint(folder, now)}")
    lines.append(f"  last error  {state.error or 'none'}")
    if (folder / "config.yaml").is_file() and "objectives" in read_config(folder):
        stages = read_stages(folder, state.word)
        alike = itertools.groupby(stages, key=lambda one: one.word)
        words = [
            ", ".join(f"{one.number} {one.name}" for one in group) + f": {word}"
            for word, group in alike
        ]
        lines.append(f"  stages      {'; '.join(words)}")
    return "\n".join(lines)


def brief(folder: Path) -> str | None:
    """Describe an experiment in a line; None before its first update.

    Raises:
        ConfigError: Its config.yaml is no configuration.
    """
    try:
        progress = _progress(read_training_log(folder), folder)
    except DataError:
        return None
    return f"{folder.name}: {progress}"


def _progress(log: TrainingLog, folder: Path) -> Progress:
    if (folder / "config.yaml").is_file():
        return progress_of(log, folder)
    # Of a folder that was copied in part: by the log alone.
    loss = log.intervals[-1].get("loss", math.nan)
    return Progress(log.last_update, None, loss, None)


def _training(folder: Path, log: TrainingLog) -> list[str]:
    progress = _progress(log, folder)
    first, last = log.intervals[0], log.intervals[-1]
    losses = [values.get("loss", math.nan) for values in (last, first)]
    loss = f"{losses[0]:.3f} (first {losses[1]:.3f}"
    if log.valid and "loss" in log.valid[-1]:
        loss += f"; validation {log.valid[-1]['loss']:.3f}, epoch {len(log.valid)}"
    lines = [f"  updates     {_updates(progress)}", f"  loss        {loss})"]
    if not (folder / "config.yaml").is_file():
        lines.append("  config.yaml missing; copy it here to see the updates to come")
    rows = [["objective", *STATISTICS.values()]]
    for name in all_objectives(log):
        at = last_of(name, log.intervals)
        if at is None or f"acc_{name}" not in log.intervals[at]:
            continue
        values = log.intervals[at]
        # A phase of the training may end before it does.
        title = name if values is last else f"{name}, until {log.updates[at]}"
        rows.append([title, *(_number(values, key, name) for key in STATISTICS)])
    if len(rows) > 1:
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines += [
            "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths))
            for row in rows
        ]
    return [line.rstrip() for line in lines]


def _updates(progress: Progress) -> str:
    text = f"{progress.done}"
    if progress.total:
        share = progress.done / progress.total
        text += f" of {progress.total} ({100 * share:.0f} %)"
    if progress.seconds_left:
        text += f", about {time_words(progress.seconds_left)} left, without validation"
    return text


def _number(values: dict[str, float], key: str, name: str) -> str:
    value = values.get(f"{key}_{name}")
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if key == "acc" else f"{value:.2f}"


def _collapsed(log: TrainingLog, state: State) -> str:
    """Tell which objectives' labels have collapsed, judging by the last interval."""
    last = log.intervals[-1]
    found = []
    for name in objectives_of(last):
        perplexity = last.get(f"window_ppl_{name}", last.get(f"label_ppl_{name}"))
        if perplexity is not None and not perplexity >= COLLAPSED:
            found.append(f"{name} (label perplexity {perplexity:.1f})")
    if found:
        return f"yes: {', '.join(found)}; see docs/objectives.md"
    if state.collapsed:
        return f"no, but the log has warned of {', '.join(state.collapsed)}"
    return "no"


def _checkpoint(folder: Path, now: float | None) -> str:
    file = folder / "checkpoint.pth"
    if not file.is_file():
        return "none; ESPnet writes one after each epoch"
    age = (time.time() if now is None else now) - file.stat().st_mtime
    return f"{file.name}, {time_words(max(0.0, age))} old"
