"""Check batches on their device, log bad utterances, protect BatchNorm's statistics."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from espnet2_birq.encoders.taps import BATCH_NORM
from espnet2_birq.errors import DataError
from espnet2_birq.pretraining.views import LABELS, SLACK, Batch, View, other_rate

EVERY = 50  # checks between two reads of their results from a GPU
SHOWN = 8  # maximum number of utterances named in a line


@contextmanager
def finite_statistics(module: torch.nn.Module):
    """Restore BatchNorm's running statistics that become non-finite in this context.

    ESPnet skips updates with a non-finite gradient, but by then the forward pass has
    updated the running statistics, and NaN never recovers.

    Args:
        module: Module that runs in this context, e.g. an encoder.
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
            # Through .data: autograd's saved values must not change.
            buffer.data.copy_(torch.where(buffer.isfinite(), buffer, old))


def label_sizes(objectives: Iterable) -> dict[View, int]:
    """Return the number of distinct labels of each view of labels from disk."""
    sizes: dict[View, int] = {}
    for one in objectives:
        if one.view.kind == LABELS:
            size = one.labeller.codebook_size
            sizes[one.view] = min(size, sizes.get(one.view, size))
    return sizes


class _Question(NamedTuple):
    """A check of a batch, reported unless all results are true."""

    good: torch.Tensor  # (K,) bool
    tell: Callable[[list[bool]], None]


class BatchChecks:
    """Checks of batches whose failures are warnings or errors.

    Evaluated immediately on a CPU; on a GPU, to avoid synchronisation, only every 50
    checks and whenever ``report`` is called.

    Attributes:
        on: False to skip all checks, e.g. for tensors without values.
    """

    def __init__(self):
        self.on = True
        self.asked: list[_Question] = []
        self._not_finite: list[str] = []

    def check_finite(self, batch: Batch, loss: torch.Tensor, training: bool = True):
        """Warn of non-finite features or loss, naming the utterances.

        Args:
            batch: B utterances.
            loss: () loss of the batch.
            training: Whether an update was to be made.
        """
        if not self.on:
            return
        features = batch.xs.detach().flatten(1).isfinite().all(dim=1)  # (B,)
        good = torch.cat([features, loss.isfinite().view(1)])
        # Questions wait for their answers: the batch itself must not be kept.
        utterances = batch.utterances

        def tell(answers):
            *features, _ = answers
            bad = _names(utterances, features)
            what = "features" if bad else "the loss"
            names = bad or _names(utterances, [False] * len(features))
            if training:
                self._not_finite += names
                then = "no update is made of this batch"
            else:
                then = "the validation leaves this batch out"
            logging.warning(
                f"not finite: {what} of {shown(names)}; {then}"
                + (", look at this audio (check_data --decode)" if bad else "")
            )

        self._ask(good, tell)

    def check_labels(self, batch: Batch, sizes: Mapping[View, int]):
        """Check rate and range of labels from disk.

        Args:
            batch: B utterances.
            sizes: V, number of distinct labels, by their view.

        Raises:
            DataError: A label rate or value is wrong; the message names the utterances.
        """
        for view, size in sizes.items():
            labels = batch.given.get(view.name)
            if self.on and labels is not None:
                self._check_range(batch, view, labels, size)
                lengths = batch.given.get(f"{view.name}_lengths")
                if lengths is not None:
                    self._check_rate(batch, view, lengths)

    def _check_range(self, batch: Batch, view: View, labels: torch.Tensor, size: int):
        utterances = batch.utterances

        def tell(answers):
            names = shown(_names(utterances, answers))
            raise DataError(
                f"labels '{view.name}' below -1, or of {size} and more, in {names}, but "
                f"codebook_size is {size}: labels are 0 to {size - 1}, or -1 for none; give "
                "the number of codes that they were made with"
            )

        self._ask(((labels >= -1) & (labels < size)).all(dim=1), tell)

    def _check_rate(self, batch: Batch, view: View, lengths: torch.Tensor):
        utterances, frames = batch.utterances, batch.frames

        def tell(answers):
            names = shown(_names(utterances, answers))
            first = answers.index(False)
            number, wanted = int(lengths[first]), int(frames[first])
            raise DataError(
                f"labels '{view.name}' of {names}: {number} labels for {wanted} encoder "
                "frames" + other_rate(number, wanted, view)
            )

        chosen = (lengths - view.every // 2 + view.every - 1) // view.every
        # No labels at all: audio that could not be read, see SpeechCollateFn.
        none = (batch.given[view.name] < 0).all(dim=1)
        self._ask(((chosen - frames).abs() <= SLACK) | none, tell)

    def take_not_finite(self) -> list[str]:
        """Return the utterances that were not finite since the last call."""
        taken, self._not_finite = self._not_finite, []
        return taken

    def report(self):
        """Report all failures since the last call."""
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
    """Return the names of the utterances that failed."""
    known = list(utterances) or [f"number {i}" for i in range(len(good))]
    return [name for name, ok in zip(known, good) if not ok]


def shown(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
