"""Read the results of a matrix from disk."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from espnet2_birq.evaluation.wer.experiments import (
    DecodedSet,
    count_set,
    find_sets,
    scored_set,
)
from espnet2_birq.evaluation.wer.grouping import label, make_clusters, split_trn_id
from espnet2_birq.evaluation.wer.normalization import get_normalization
from espnet2_birq.evaluation.wer.significance import (
    bootstrap_draws,
    interval_ends,
    rates_of_resamples,
)
from espnet2_birq.experiments.runner import Runner
from espnet2_birq.experiments.spec import System
from espnet2_birq.experiments.steps import Record, Step
from espnet2_birq.experiments.training_log import TrainingLog, read_training_log
from espnet2_birq.reading import read_json

KINDS = ("wer", "cer")
DECODING = "greedy_ctc_"  # how a matrix decodes
FROZEN = "frozen"  # stands for the probe where a fine-tuning set would be named


class Errors(NamedTuple):
    """Errors of a decoded set by utterance, in the order of its reference."""

    names: list[str]  # without the speaker, which earlier probes did not write
    errors: np.ndarray  # (U,)
    tokens: np.ndarray  # (U,)
    clusters: np.ndarray  # (U,), index of the speaker or meeting; see make_clusters()


class Pretraining(NamedTuple):
    """A finished pretraining run."""

    log: TrainingLog
    updates: int
    flops: float  # of all updates


class Result(NamedTuple):
    """Results so far of one system and seed."""

    pretraining: Pretraining | None
    errors: dict[tuple, Errors]  # by fine-tuning set or FROZEN, test set, kind of KINDS
    probe: dict | None  # probe.json
    phones: dict | None = None  # results of phone_probe


def read_results(
    runner: Runner, seeds: list[int]
) -> tuple[dict[str, dict[int, Result]], dict[str, str]]:
    """Read all finished results that were made with the matrix's present settings.

    Args:
        runner: Runner of the matrix.
        seeds: Seeds to read.

    Returns:
        Results by system name and seed; and the names of finished steps whose results are
        not current, with the reason.
    """
    reader = _Reader(runner)
    found = {
        system.name: {seed: reader.read(system, seed) for seed in seeds}
        for system in runner.spec.systems
    }
    return found, {name: why for name, why in reader.outdated.items() if why}


class _Reader:
    """Reads results, and remembers which steps are not current."""

    def __init__(self, runner: Runner):
        self.runner = runner
        self.outdated: dict[str, str | None] = {}  # by finished step; None: current

    def read(self, system: System, seed: int) -> Result:
        runner = self.runner
        pretraining = probe = phones = None
        folder = runner.ssl_exp(system, seed)
        steps = {step.name.split("_")[0]: step for step in runner.steps(system, seed)}
        # OUT may have been copied here without its models, or even without its logs.
        if self._is_current(steps.get("ssl")) and any(folder.glob("train*.log")):
            log = read_training_log(folder)
            flops = runner.configs.flops(system) * log.last_update
            pretraining = Pretraining(log, log.last_update, flops)
        if self._is_current(steps.get("probe")):
            probe = read_json(runner.probe_dir(system, seed) / "probe.json")
        if self._is_current(runner.phone_probe(system, seed)):
            phones = read_json(runner.phones_file(system, seed))
        errors = {}
        for test in runner.spec.tests if probe is not None else []:
            decoded = scored_set(runner.probe_dir(system, seed) / test)
            for kind in KINDS:
                errors[FROZEN, test, kind] = read_errors(decoded, kind)
        for one in runner.spec.finetune_sets:
            if not self._is_current(runner.finetuning(system, seed, one)):
                continue
            for decoded in own_decodings(
                find_sets(runner.asr_exp(system, seed, one.name))
            ):
                for kind in KINDS:
                    errors[one.name, decoded.name, kind] = read_errors(decoded, kind)
        return Result(pretraining, errors, probe, phones)

    def _is_current(self, step: Step | None) -> bool:
        """Whether a step has finished, and would not be made again."""
        if step is None or not Record(self.runner.out, step).has_ended:
            return False
        if step.name not in self.outdated:
            self.outdated[step.name] = self._why_outdated(step)
        return self.outdated[step.name] is None

    def _why_outdated(self, step: Step) -> str | None:
        before = step.before
        if why := Record(self.runner.out, step).why_outdated():
            return why
        if before is not None and not self._is_current(before):
            return f"was made from {before.name}, which is not finished or not current"
        return None


def own_decodings(sets: list[DecodedSet]) -> list[DecodedSet]:
    """Leave out further decodings of a set, which someone made after the matrix's own."""
    times = Counter(one.name for one in sets)
    return [x for x in sets if times[x.name] == 1 or x.decoding.startswith(DECODING)]


def read_errors(decoded: DecodedSet, kind: str) -> Errors:
    """Count the errors of each utterance, for "wer" or "cer"."""
    ids, counts = count_set(decoded, kind, get_normalization("none"))
    names = [split_trn_id(trn_id)[1] for trn_id in ids]
    clusters = make_clusters(label(ids)).codes
    return Errors(names, counts[:, 1:].sum(axis=1), counts[:, :3].sum(axis=1), clusters)


def resample(
    own: list[Errors], other: list[Errors] | None = None, draws: int = 2000
) -> dict[str, float | None]:
    """Bootstrap an error rate over seeds, or its difference between two systems.

    Seeds and clusters of utterances are resampled, jointly for both systems, so the
    interval covers other training runs and other speakers. With few seeds, it is rough.

    Args:
        own: Errors of each seed, all for the same utterances.
        other: Errors of the other system by seed; None: no difference.
        draws: Number of resamples.

    Returns:
        ``percent``, and the 95 % interval from ``low`` to ``high``; both are None with a
        single seed and cluster, in which there is nothing to resample.
    """
    errors = np.stack([one.errors for one in own]).astype(float)  # (S, U)
    if other is not None:
        for one, two in zip(own, other, strict=True):
            if one.names != two.names:
                raise ValueError("two systems decoded different utterances")
        errors -= np.stack([one.errors for one in other])
    number = int(own[0].clusters.max()) + 1
    sums = np.stack([np.bincount(own[0].clusters, row, number) for row in errors])
    tokens = np.bincount(own[0].clusters, own[0].tokens, number)
    percent = 100 * sums.sum(axis=1).mean() / tokens.sum()
    if number * len(own) == 1:
        return dict(percent=percent, low=None, high=None)
    drawn = [
        (sums[np.ix_(rows, picked)].sum(axis=1).mean(), tokens[picked].sum())
        for picked, rows in bootstrap_draws(number, len(own), draws=draws)
    ]
    low, high = 100 * interval_ends(rates_of_resamples(*np.array(drawn).T))
    return dict(percent=percent, low=low, high=high)
