"""Detect collapse, and start objectives, from averages over recent steps."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

import torch

from espnet2_birq.errors import ConfigError, UserError
from espnet2_birq.pretraining.objective import Objective

EVERY = 50  # steps between two reads, the only synchronisations with a GPU
# Codebook perplexity below which labels are useless (half of the codes, if fewer than 8)
FEWEST = 4.0


class CollapseError(UserError):
    """The labels of an objective have collapsed to a few codes."""


class StartWatch:
    """Starts objectives once their condition is met, checked every 50 steps.

    Some labels are useful only after initial learning, which shows in the prediction
    perplexity of another objective: at first, all predictions are the same code.

    Args:
        objectives: All objectives of the model.

    Raises:
        ConfigError: A condition that can never be met.
    """

    def __init__(self, objectives: Iterable[Objective]):
        codes = {one.name: one.labeller.codebook_size for one in objectives}
        for one in objectives:
            for name, wanted in (one.when.once or {}).items():
                if not wanted <= codes[name]:
                    raise ConfigError(
                        f"objective '{one.name}': when: once waits for a perplexity of "
                        f"{wanted:g}, but '{name}' has {codes[name]} codes"
                    )
        # (objective, statistic, threshold)
        self.waiting = [
            (one, f"pred_ppl_{name}", wanted)
            for one in objectives
            for name, wanted in (one.when.once or {}).items()
        ]
        # By waiting objective: what it waits for may itself be off in this step.
        self.seen: dict[str, list[torch.Tensor]] = {x[0].name: [] for x in self.waiting}

    def watch(self, stats: dict[str, torch.Tensor], update: int):
        """Add the statistics of a training step."""
        for one, key, wanted in self.waiting:
            if key not in stats or one.age(update) is not None:
                continue
            seen = self.seen[one.name]
            seen.append(stats[key])
            if len(seen) < EVERY:
                continue
            mean = float(torch.stack(seen).nanmean())  # NaN: no frame had a label
            seen.clear()
            if mean >= wanted:
                one.begin(update + 1)
                logging.info(
                    f"objective '{one.name}' begins at update {update + 1}: {key} was "
                    f"{mean:.1f} over the last {EVERY} steps"
                )

    def state(self) -> dict[str, list[torch.Tensor]]:
        """Return the statistics since the last checks."""
        return self.seen

    def restore(self, state: dict[str, list[torch.Tensor]]):
        """Set the statistics since the last checks."""
        self.seen = {name: list(seen) for name, seen in state.items()}


class Guard(NamedTuple):
    """A statistic that reveals a collapse."""

    key: str  # of the statistics, without the objective's name
    least: float
    message: str  # with the objective's name, the mean and the labeller's remedy


GUARDS = (
    Guard(
        "window_ppl",  # of a step, it cannot exceed the number of frames
        FEWEST,
        "objective '{name}' has collapsed: codebook perplexity of its labels {mean:.1f} "
        "over the last {steps} steps; {remedy}",
    ),
    # The two checks of data2vec, with its thresholds.
    Guard(
        "target_std",
        0.1,
        "objective '{name}' has collapsed: its targets' standard deviation over frames "
        "was {mean:.3f} over the last {steps} steps, the teacher's layers say the same of "
        "all; raise its decay (teacher_conf), lower the learning rate, or add an anchor",
    ),
    Guard(
        "pred_std",
        0.01,
        "objective '{name}' has collapsed: its predictions' standard deviation over "
        "frames was {mean:.4f} over the last {steps} steps, the model says the same of "
        "all; lower the learning rate, or add an anchor",
    ),
)


class CollapseWatch:
    """Detects collapse from averages over 50 steps each.

    Labels of a layer can collapse to the one code that the head predicts anyway, and
    vectors of a teacher to a constant: the loss is then 0 and nothing is learned. An
    objective with a mean label perplexity below 4 (or half of the codes, if there are
    fewer than 8), or vectors that hardly differ between frames, is reported, on all ranks
    alike since they share the statistics.

    Args:
        objectives: All objectives of the model.
        stop: Raise instead of warning.
    """

    def __init__(self, objectives: Iterable[Objective], stop: bool = False):
        self.stop = stop
        self.watched = {
            f"{guard.key}_{one.name}": (guard, one.name, one.labeller)
            for one in objectives
            for guard in GUARDS
        }
        self.seen = 0
        # by statistic: sum over steps in which a frame had a label, and their number
        self.sums: dict[str, torch.Tensor] = {}

    def watch(self, stats: dict[str, torch.Tensor]):
        """Add the statistics of a training step.

        Raises:
            CollapseError: An objective has collapsed, and ``stop`` is set.
        """
        for key in self.watched:
            if key in stats:  # labelled in this step
                value = stats[key].float()
                new = torch.stack([value.nan_to_num(0.0), (~value.isnan()).float()])
                self.sums[key] = self.sums.get(key, 0.0) + new
        self.seen += 1
        if self.seen < EVERY or not self.sums:
            return
        keys = list(self.sums)
        means = torch.stack([total / n for total, n in self.sums.values()]).tolist()
        self.seen, self.sums = 0, {}
        for key, mean in zip(keys, means):
            guard, name, labeller = self.watched[key]
            least = guard.least
            if labeller.discrete:
                least = min(least, labeller.codebook_size / 2)
            if not mean >= least:  # also true for NaN
                message = guard.message.format(
                    name=name, mean=mean, steps=EVERY, remedy=labeller.remedy
                )
                if self.stop:
                    raise CollapseError(message)
                logging.warning(message)

    def state(self) -> tuple[int, dict[str, torch.Tensor]]:
        """Return the number of steps since the last check, and the sums over them."""
        return self.seen, self.sums

    def restore(self, state: tuple[int, dict[str, torch.Tensor]]):
        """Set the state to a return value of state()."""
        self.seen, sums = state
        # Older versions kept other sums, as pairs.
        self.sums = {x: y for x, y in sums.items() if isinstance(y, torch.Tensor)}
