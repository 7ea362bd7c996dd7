"""Report, count and limit updates that ESPnet skips for a non-finite gradient.

ESPnet only logs that it skips an update, and goes on indefinitely. A few skipped updates
are normal with mixed precision, which finds its loss scale that way; many in a row mean
that nothing is learned any more.
"""

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from espnet2.train.reporter import SubReporter

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.checks import BatchChecks, shown
from espnet2_birq.pretraining.ranks import gather, rank

# File of the experiment: epoch, batch, and the utterances at fault, or all of the batch.
LIST = "skipped_updates"


class SkippedUpdates:
    """Watches for skipped updates.

    Args:
        folder: Folder of the experiment.
        limit: Number of skipped updates in a row at which training stops.
        checks: Checks of the model's batches, which know the utterances at fault.
        accum_grad: Batches per update.
    """

    def __init__(self, folder: Path, limit: int, checks: BatchChecks, accum_grad: int):
        self.path, self.limit = folder / LIST, limit
        self.checks, self.accum_grad = checks, accum_grad

    def in_row(self, reporter: SubReporter) -> int:
        """Return the number of skipped updates in a row, up to the latest of the epoch."""
        norms = reporter.stats.get("grad_norm")
        number = 0
        for batch in range(reporter.count - 1, -1, -self.accum_grad):
            if norms is not None and not math.isnan(norms[batch].value):
                break
            number += 1
        return number

    def after_update(self, reporter: SubReporter, utterances: Iterable[str]) -> None:
        """Check the last update; all ranks take part if it was skipped.

        Args:
            reporter: Reporter of the epoch, after the update's last batch.
            utterances: Utterances of this rank in the update's batches.

        Raises:
            ConfigError: The limit is reached.
        """
        number = self.in_row(reporter)
        if not number:
            return
        self.checks.report()
        found = gather((list(utterances), self.checks.take_not_finite()))
        names = [name for one, _ in found for name in one]
        guilty = [name for _, one in found for name in one]
        epoch, batch = reporter.get_epoch(), reporter.count
        whose = shown(guilty) if guilty else f"one of {shown(names)}"
        logging.warning(
            f"epoch {epoch}, batch {batch}: the gradient is not finite, by {whose}; the "
            f"update is skipped ({number} in a row), see {self.path}"
        )
        if rank() == 0:
            with self.path.open("a", encoding="utf-8") as stream:
                print(epoch, batch, *(guilty or names), file=stream)
        if number >= self.limit:
            raise ConfigError(
                f"epoch {epoch}, batch {batch}: {number} updates in a row were skipped, "
                f"their gradients were not finite ({self.path}): lower the learning rate "
                "or its growth (optim_conf, scheduler_conf), or raise "
                "--max_skipped_updates; the previous state is kept"
            )


def check_parameters(model: torch.nn.Module) -> None:
    """Check that a model is finite, before its state replaces a good one.

    Raises:
        ConfigError: A parameter or buffer is not finite; the message names it.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    tensors = [(name, x) for name, x in tensors if x.is_floating_point()]
    finite = torch.stack([x.detach().isfinite().all() for _, x in tensors]).tolist()
    bad = [name for (name, _), good in zip(tensors, finite) if not good]
    if bad:
        raise ConfigError(
            f"the model is no longer finite ({shown(bad)}) and is not saved; the "
            "previous state is kept: lower the learning rate and resume from it"
        )


def check_validation(reporter: SubReporter) -> None:
    """Check that a validation loss covers all batches: ESPnet's mean leaves out NaN.

    Raises:
        ConfigError: More than half of the batches have no finite loss.
    """
    values = [x.value for x in reporter.stats.get("loss", [])]
    bad = sum(not math.isfinite(value) for value in values)
    if not bad:
        return
    words = f"validation: the loss of {bad} of {len(values)} batches is not finite"
    if 2 * bad > len(values):
        raise ConfigError(
            f"{words}: the model has diverged (train anew with a lower learning rate), "
            "or the validation set is bad (check_data --decode)"
        )
    logging.error(f"{words}: epoch {reporter.get_epoch()}'s means leave them out")
