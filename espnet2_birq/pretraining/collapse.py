"""A collapse is named in the log, and stops training when asked."""

import logging
from typing import Dict, List

import torch

EVERY = 50  # updates between two looks: the only time a value is waited for
FEWEST = 4.0  # perplexity, of any codebook, that no useful label has


class CollapseError(RuntimeError):
    """An objective's labels have become a few codes."""


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

    def __init__(self, names: List[str], stop: bool = False):
        self.names = names
        self.stop = stop
        self.seen = 0
        self.sums = {}  # of an objective: perplexities, and how many

    def watch(self, stats: Dict[str, torch.Tensor]):
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
