"""Means over some steps, at whose values something happens: a collapse, a start."""

import logging
from collections.abc import Iterable

import torch

from espnet2_birq.pretraining.objective import Objective

EVERY = 50  # updates between two looks: the only time a value is waited for
FEWEST = 4.0  # perplexity, of any codebook, that no useful label has


class CollapseError(RuntimeError):
    """An objective's labels have become a few codes."""


class StartWatch:
    """Begins objectives whose condition is met, looking every 50 steps.

    Some labels are of use only when the model has learned something. The perplexity of
    the predictions of another objective tells: at first they are all the same code.

    Args:
        objectives: All of the model's.
    """

    def __init__(self, objectives: Iterable[Objective]):
        # with the statistic that each waits for, and its value
        self.waiting = [
            (one, f"pred_ppl_{name}", wanted)
            for one in objectives
            for name, wanted in (one.when.once or {}).items()
        ]
        self.seen: list[torch.Tensor] = []

    def watch(self, stats: dict[str, torch.Tensor], update: int):
        """Take in one training step's statistics."""
        waiting = [x for x in self.waiting if x[0].age(update) is None]
        if not waiting or not all(key in stats for _, key, _ in waiting):
            return
        self.seen.append(torch.stack([stats[key] for _, key, _ in waiting]))
        if len(self.seen) < EVERY:
            return
        means = torch.stack(self.seen).mean(dim=0).tolist()
        self.seen = []
        for (one, key, wanted), mean in zip(waiting, means):
            if mean >= wanted:
                one.begin(update + 1)
                logging.info(
                    f"objective '{one.name}' begins at update {update + 1}: {key} was "
                    f"{mean:.1f} over the last {EVERY} steps"
                )
                self.seen = []


class CollapseWatch:
    """Looks at the mean label perplexity of the last 50 steps, every 50 steps.

    Labels that a layer makes can become the one code that the head predicts anyway: the
    loss is then 0 and nothing is learned. Every 50 steps, all ranks alike since the
    statistics are theirs in common, an objective whose labels' perplexity was below 4
    on average is reported.

    Args:
        names: Of the objectives to watch.
        stop: Raise instead of warning.
    """

    def __init__(self, names: list[str], stop: bool = False):
        self.names = names
        self.stop = stop
        self.seen = 0
        # of an objective: perplexities, and how many
        self.sums: dict[str, tuple[torch.Tensor, int]] = {}

    def watch(self, stats: dict[str, torch.Tensor]):
        """Take in one training step's statistics.

        Raises:
            CollapseError: An objective has collapsed, and ``stop`` is set.
        """
        for name in self.names:
            if f"label_ppl_{name}" in stats:  # labelled in this step
                total, number = self.sums.get(name, (0.0, 0))
                self.sums[name] = total + stats[f"label_ppl_{name}"], number + 1
        self.seen += 1
        if self.seen < EVERY or not self.sums:
            return
        names = list(self.sums)
        means = torch.stack([total / n for total, n in self.sums.values()]).tolist()
        self.seen, self.sums = 0, {}
        for name, mean in zip(names, means):
            if not mean >= FEWEST:  # NaN is no health
                message = (
                    f"objective '{name}' has collapsed: codebook perplexity of its "
                    f"labels {mean:.1f} over the last {EVERY} steps; cut its gradient "
                    "(gradient: 0), whiten its labels (labeller_conf: {projection: "
                    "whitened}) or raise its weight later (weight: [[0, 0.0], "
                    "[10000, 0.1]])"
                )
                if self.stop:
                    raise CollapseError(message)
                logging.warning(message)
