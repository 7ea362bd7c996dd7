"""Values that are not finite: kept out of running states, and named in the log."""

import logging
from contextlib import contextmanager
from typing import List, Sequence, Tuple

import torch

BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm
EVERY = 50  # batches between two looks at a GPU's answers
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


class FiniteWatch:
    """Warns of batches with non-finite features or loss, naming their utterances.

    On a CPU at once; on a GPU, which is not to be waited for, every 50 batches and
    whenever ``report`` is called.
    """

    def __init__(self):
        self.noted: List[Tuple[torch.Tensor, Sequence[str]]] = []

    def note(
        self, xs: torch.Tensor, loss: torch.Tensor, utterances: Sequence[str] = ()
    ):
        """Take in a batch.

        Args:
            xs: (B, T, D) features.
            loss: () of the batch.
            utterances: B names; empty: unknown.
        """
        good = [xs.detach().flatten(1).isfinite().all(dim=1), loss.isfinite().view(1)]
        self.noted.append((torch.cat(good), utterances))
        if loss.device.type == "cpu" or len(self.noted) >= EVERY:
            self.report()

    def report(self):
        """Warn of what was noted since the last time."""
        if not self.noted:
            return
        sizes = [len(good) for good, _ in self.noted]
        answers = torch.cat([good for good, _ in self.noted]).cpu().split(sizes)
        for answer, (_, utterances) in zip(answers, self.noted):
            if answer.all():
                continue
            *features, _ = answer.tolist()
            names = list(utterances) or [f"number {i}" for i in range(len(features))]
            bad = [name for name, good in zip(names, features) if not good]
            what = "features" if bad else "the loss"
            names = bad or names
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            logging.warning(
                f"not finite: {what} of {', '.join(names[:SHOWN])}{more}; no update is "
                "made of this batch"
                + (", look at this audio (check_data --full)" if bad else "")
            )
        self.noted = []
