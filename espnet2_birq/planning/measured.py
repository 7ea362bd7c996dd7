"""Measure a machine: training steps, validation, reading."""

import argparse
import copy
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet2_birq.config import sampling_rate
from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import DataError
from espnet2_birq.planning.batches import configured_batch
from espnet2_birq.planning.cost import (
    FakeModel,
    StepCost,
    active_sets,
    blank_labels,
    freeze,
    late_updates,
)
from espnet2_birq.planning.plan import Data, Machine
from espnet2_birq.reading import read_text
from espnet2_birq.tasks.ssl import SSLTask

LEAST_SECONDS = 2.0  # of reading, enough for a rate accurate to a few per cent
START_SECONDS = 40.0  # of noise for codebooks, however small a step's batch is


class Case(NamedTuple):
    """A training step to measure.

    Attributes:
        name: Name in a table.
        args: Arguments of SSLTask.
        utterances: B, batch size.
        seconds: Length of each utterance in seconds.
    """

    name: str
    args: argparse.Namespace
    utterances: int
    seconds: float

    @property
    def samples(self) -> int:
        """Samples of an utterance."""
        return round(self.seconds * sampling_rate(self.args.frontend_conf))

    @property
    def speech(self) -> float:
        """Seconds of speech in a batch."""
        return self.utterances * self.seconds


class Timed(NamedTuple):
    """Times of a case in seconds, one per round."""

    steps: list[float]  # means over a period of the schedules, usually one step
    validations: list[float]  # of a forward pass as in validation


class Step:
    """A repeatable training step on noise, late in training.

    Args:
        args: Arguments of SSLTask.
        utterances: B, batch size.
        samples: Length of each utterance.
        device: cpu or cuda.

    Attributes:
        updates: Updates whose steps are run; at first, one period late in training.
    """

    updates: Sequence[int]

    def __init__(
        self, args: argparse.Namespace, utterances: int, samples: int, device="cpu"
    ):
        torch.manual_seed(0)
        model = SSLTask.build_model(args)
        freeze(model, args.freeze_param)
        speech = 0.1 * torch.randn(utterances, samples)
        lengths = torch.full((utterances,), samples)
        rate = sampling_rate(args.frontend_conf)
        model.prepare(
            dict(speech=0.1 * torch.randn_like(speech), speech_lengths=lengths)
            for _ in range(math.ceil(START_SECONDS * rate / speech.numel()))
        )
        labels = blank_labels(model, utterances, samples)
        self.labels = {name: x.to(device) for name, x in labels.items()}
        self.model = model.to(device).train()
        self.updates = late_updates(self.model)
        (self.optimizer,) = SSLTask.build_optimizers(args, self.model)
        self.speech, self.lengths = speech.to(device), lengths.to(device)
        self.device = device
        self.half = bool(args.use_amp) and device == "cuda"

    def loss(self) -> torch.Tensor:
        """Run a forward pass; return the loss."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.half):
            return self.model(self.speech, self.lengths, **self.labels)[0]

    def gradients(self) -> None:
        """Run forward and backward pass."""
        self.loss().backward()

    def __call__(self) -> float:
        """Run whole steps; return the mean seconds of one."""
        start = self._now()
        for update in self.updates:
            self.model._update = update
            self.gradients()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return (self._now() - start) / len(self.updates)

    @torch.no_grad()
    def validate(self) -> float:
        """Run a forward pass as in validation; return its seconds."""
        self.model.eval()
        start = self._now()
        self.loss()
        seconds = self._now() - start
        self.model.train()
        return seconds

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def with_objectives(
    args: argparse.Namespace, rows: Sequence[Mapping[str, Any]]
) -> argparse.Namespace:
    """Return arguments of the same training with some of its input objectives alone.

    Options that need other objectives are left out, and so is ``when``: without the
    others, there could be updates in which nothing is learned.

    Args:
        args: Arguments of SSLTask.
        rows: Some of its objectives, all with labels of the input.
    """
    args = copy.deepcopy(args)
    args.objectives = [
        {key: value for key, value in row.items() if key != "when"} for row in rows
    ]
    args.teacher_conf, args.tokenizer_conf = {}, {}
    kept = args.target_branch_conf.get("copies", 1)
    args.target_branch_conf = {"copies": kept}
    return args


def list_cases(args: argparse.Namespace, data: Data, most_speech: float) -> list[Case]:
    """List steps that determine a machine's rates: two lengths for each method.

    Args:
        args: Arguments of SSLTask.
        data: Amount of speech.
        most_speech: Most seconds of speech in a batch.

    Returns:
        Cases of the configured training, preceded by cases with its input objectives
        alone, which is BEST-RQ, if it has others.
    """
    views = {one.name: one.view for one in FakeModel(args).model.objectives}
    rows = [row for row in args.objectives if views[row["name"]].kind == "input"]
    methods = {"as configured": args}
    if 0 < len(rows) < len(args.objectives):
        methods = {"input labels": with_objectives(args, rows)} | methods
    share = min(configured_batch(args, data.mean, 1).share, most_speech)
    utterance = data.utterance
    return [
        Case(name, conf, max(1, round(share / seconds)), seconds)
        for name, conf in methods.items()
        for seconds in (utterance / 2.5, utterance)
    ]


def time_cases(
    cases: Sequence[Case], rounds: int, device: str
) -> Iterator[tuple[Case, StepCost, Timed]]:
    """Time each case's steps, with one model in memory at a time.

    Args:
        cases: Steps to measure.
        rounds: Number of timed rounds, after an untimed one.
        device: cpu or cuda.
    """
    models: dict[int, FakeModel] = {}
    for case in cases:
        if id(case.args) not in models:
            models[id(case.args)] = FakeModel(case.args, device == "cuda")
        cost = models[id(case.args)].count_step(case.utterances, case.samples)
        step = Step(case.args, case.utterances, case.samples, device)
        step()
        steps = [step() for _ in range(rounds)]
        yield case, cost, Timed(steps, [step.validate() for _ in range(rounds)])


def fit_rates(
    costs: Sequence[StepCost], seconds: Sequence[float], fastest: float = math.inf
) -> np.ndarray:
    """Fit seconds per FLOP and seconds per moved byte to the times of steps.

    The fit minimises relative errors. If it makes one of the two impossible, products are
    taken as fast as they can be; without a limit, the one that explains less is dropped.

    Args:
        costs: Counted costs of some steps.
        seconds: Their times.
        fastest: FLOP/s that products of a step cannot exceed.

    Returns:
        Two numbers, at least 1 / fastest and 0, and one of them positive.
    """
    least = np.array([1 / fastest, 0.0])
    rows = np.array([[c.flops, c.moved] for c in costs]) / np.array(seconds)[:, None]
    both, *_ = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)
    if (both >= least).all():
        return both
    found = []
    # Nothing limits the other rate so surely: small tensors stay in caches.
    for bound in (0,) if fastest < math.inf else (0, 1):
        rates, x = least.copy(), rows[:, 1 - bound]
        rest = 1 - least[bound] * rows[:, bound]
        rates[1 - bound] = max(least[1 - bound], x @ rest / (x @ x))
        found.append(rates)
    return min(found, key=lambda rates: np.square(rows @ rates - 1).sum())


def reading_rate(folder: Path, fs: int, least_seconds: float = LEAST_SECONDS) -> float:
    """Measure how fast one process reads a training set.

    Args:
        folder: A set of dump/raw, with wav.scp and audio_format.
        fs: Sample rate in Hz.
        least_seconds: Seconds to read for.

    Returns:
        Seconds of speech per second.

    Raises:
        DataError: The set has no wav.scp, or its audio cannot be read.
    """
    from espnet2.train.dataset import ESPnetDataset

    if not (folder / "wav.scp").is_file():
        raise DataError(
            f"{folder}/wav.scp: no such file; give --data a set of dump/raw"
        )
    form = folder / "audio_format"
    in_ark = form.is_file() and read_text(form).strip().endswith("ark")
    kind = "kaldi_ark" if in_ark else "sound"
    names = list(read_scp(folder / "wav.scp"))
    dataset = ESPnetDataset([(str(folder / "wav.scp"), "speech", kind)])
    start, samples, read = time.perf_counter(), 0, 0
    while read < len(names) and time.perf_counter() - start < least_seconds:
        # Golden-ratio steps reach all parts of the set, and no name twice.
        name = names[read * 0x9E3779B1 % len(names)]
        samples += _samples(dataset, name, folder)
        read += 1
    return samples / fs / max(time.perf_counter() - start, 1e-9)


def _samples(dataset, name: str, folder: Path) -> int:
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # ESPnet would log the error, too
    try:
        return len(dataset[name][1]["speech"])
    except Exception as error:  # of libsndfile, kaldiio, the operating system, ...
        raise DataError(
            f"{folder}/wav.scp: {name} cannot be read "
            f"({' '.join(str(error).split())[:200]}); make it again, or leave it out "
            "(check_data --decode finds all)"
        ) from error
    finally:
        logging.disable(before)


def largest_on_gpu(args: argparse.Namespace, utterances: int, samples: int) -> int:
    """Reduce a batch by 5 % at a time until its steps run on the GPU.

    Args:
        args: Arguments of SSLTask.
        utterances: Batch size to begin with.
        samples: Length of each utterance.

    Returns:
        Number of utterances; 0 if none fits.
    """
    while utterances and not _runs(args, utterances, samples):
        torch.cuda.empty_cache()
        utterances = min(utterances - 1, int(0.95 * utterances))
    return utterances


def _runs(args: argparse.Namespace, utterances: int, samples: int) -> bool:
    try:
        step = Step(args, utterances, samples, "cuda")
        phases = range(step.updates[-1] + 1)  # the largest step may be an earlier one
        step.updates = [first for first, _ in active_sets(step.model.whens, phases)]
        step()  # allocates the optimizer's state
        step()
    except torch.OutOfMemoryError:
        return False
    return True


def write_machine(path: Path, machine: Machine, description: Mapping[str, Any]) -> None:
    """Write rates for read_machine()."""
    content = {"machine": machine._asdict(), "description": dict(description)}
    write_whole(path, json.dumps(content, indent=2) + "\n")
