"""What is wrong with a batch: found on its device, named in the log, kept out of states."""

import logging
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from espnet2_birq.encoders.taps import BATCH_NORM
from espnet2_birq.errors import DataError
from espnet2_birq.pretraining.views import SLACK, Batch

EVERY = 50  # answers between two looks at a GPU's
SHOWN = 8  # utterances that one line names


@contextmanager
def finite_statistics(module: torch.nn.Module):
    """Undo what becomes non-finite of BatchNorm's running statistics.

    ESPnet skips an update whose gradient is not finite, but the forward pass has moved
    the running statistics by then, and what is NaN stays NaN.

    Args:
        module: Whose layers run in this context, e.g. an encoder.
    """
    buffers = [
        buffer
        for layer in module.modules()
        if isinstance(layer, BATCH_NORM) and layer.training
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, old in zip(buffers, before):
            # Not seen by autograd, whose saved values stay what they were.
            buffer.data.copy_(torch.where(buffer.isfinite(), buffer, old))


class _Question(NamedTuple):
    """Something to be told of a batch unless all answers are true."""

    good: torch.Tensor  # (K,) bool
    tell: Callable[[list[bool]], None]


class BatchChecks:
    """Asks questions about batches; a wrong answer is a warning or an error.

    On a CPU at once; on a GPU, which is not to be waited for, every 50 questions and
    whenever ``report`` is called.

    Attributes:
        on: Set it to False to ask nothing, e.g. of tensors without values.
    """

    def __init__(self):
        self.on = True
        self.asked: list[_Question] = []

    def check_finite(self, batch: Batch, loss: torch.Tensor):
        """Warn of features or a loss that are not finite, naming utterances.

        Args:
            batch: With B utterances.
            loss: () of the batch.
        """
        if not self.on:
            return
        features = batch.xs.detach().flatten(1).isfinite().all(dim=1)  # (B,)
        good = torch.cat([features, loss.isfinite().view(1)])

        def tell(answers):
            *features, _ = answers
            bad = _names(batch.utterances, features)
            what = "features" if bad else "the loss"
            names = bad or _names(batch.utterances, [False] * len(features))
            logging.warning(
                f"not finite: {what} of {_shown(names)}; no update is made of this "
                "batch" + (", look at this audio (check_data --full)" if bad else "")
            )

        self._ask(good, tell)

    def check_labels(
        self, batch: Batch, lengths: torch.Tensor | None, size: int | None
    ):
        """Stop where labels from disk are of another rate or not among the codes.

        Args:
            batch: With B utterances.
            lengths: (B,) labels of each utterance; None: unknown.
            size: V, how many different labels there may be; None: none are read.

        Raises:
            DataError: Names the utterances.
        """
        if not self.on or size is None or batch.labels is None:
            return

        def tell_size(answers):
            names = _shown(_names(batch.utterances, answers))
            raise DataError(
                f"labels of {size} and more in {names}, but codebook_size is {size}"
            )

        self._ask((batch.labels < size).all(dim=1), tell_size)
        if lengths is None:
            return

        def tell_rate(answers):
            names = _shown(_names(batch.utterances, answers))
            raise DataError(
                f"labels of another rate, or of other audio: {names} differ by more "
                f"than {SLACK} from the encoder's number of frames"
            )

        self._ask((lengths - batch.frames).abs() <= SLACK, tell_rate)

    def report(self):
        """Tell what was asked since the last time."""
        asked, self.asked = self.asked, []
        if not asked:
            return
        sizes = [len(question.good) for question in asked]
        good = torch.cat([question.good for question in asked]).cpu()
        for answers, question in zip(good.split(sizes), asked):
            if not answers.all():
                question.tell(answers.tolist())

    def _ask(self, good: torch.Tensor, tell: Callable[[list[bool]], None]):
        self.asked.append(_Question(good, tell))
        if good.device.type == "cpu" or len(self.asked) >= EVERY:
            self.report()


def _names(utterances: Sequence[str], good: list[bool]) -> list[str]:
    """Names of the utterances whose answer is False."""
    known = list(utterances) or [f"number {i}" for i in range(len(good))]
    return [name for name, ok in zip(known, good) if not ok]


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
