"""Detect codebook collapse, and start objectives, by averages over recent steps."""

import logging
from collections.abc import Iterable

import torch

from espnet2_birq.pretraining.objective import Objective

EVERY = 50  # steps between two reads, the only synchronisations with a GPU
FEWEST = 4.0  # codebook perplexity below which labels are useless


class CollapseError(RuntimeError):
    """The labels of an objective have collapsed to a few codes."""


class StartWatch:
    """Starts objectives once their condition is met, checked every 50 steps.

    Some labels are useful only after initial learning, which shows in the prediction
    perplexity of another objective: at first, all predictions are the same code.

    Args:
        objectives: All objectives of the model.
    """

    def __init__(self, objectives: Iterable[Objective]):
        # (objective, statistic, threshold)
        self.waiting = [
            (one, f"pred_ppl_{name}", wanted)
            for one in objectives
            for name, wanted in (one.when.once or {}).items()
        ]
        self.seen: list[torch.Tensor] = []

    def watch(self, stats: dict[str, torch.Tensor], update: int):
        """Add the statistics of a training step."""
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

    def state(self) -> list[torch.Tensor]:
        """Return the statistics since the last check."""
        return self.seen

    def restore(self, state: list[torch.Tensor]):
        """Set the statistics since the last check."""
        self.seen = list(state)


class CollapseWatch:
    """Detects codebook collapse by the mean label perplexity of every 50 steps.

    Labels of a layer can collapse to the one code that the head predicts anyway: the
    loss is then 0 and nothing is learned. An objective with a mean label perplexity
    below 4 is reported, on all ranks alike since they share the statistics.

    Args:
        names: Names of the objectives to watch.
        stop: Raise instead of warning.
    """

    def __init__(self, names: list[str], stop: bool = False):
        self.names = names
        self.stop = stop
        self.seen = 0
        # by objective: sum of perplexities, and their number
        self.sums: dict[str, tuple[torch.Tensor, int]] = {}

    def watch(self, stats: dict[str, torch.Tensor]):
        """Add the statistics of a training step.

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
            if not mean >= FEWEST:  # also true for NaN
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

    def state(self) -> tuple[int, dict[str, tuple[torch.Tensor, int]]]:
        """Return the sums since the last check, and its distance in steps."""
        return self.seen, self.sums

    def restore(self, state: tuple[int, dict[str, tuple[torch.Tensor, int]]]):
        """Set what state() returns."""
        seen, sums = state
        self.seen, self.sums = seen, {name: (x, n) for name, (x, n) in sums.items()}
