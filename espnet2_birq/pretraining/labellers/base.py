"""The base class of labellers, with checkpointing of their state."""

from typing import Any

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labels import Labels

IDENTITY = 512  # characters of an identity, filled up with zeros


class Labeller(torch.nn.Module):
    """Maps vectors to labels; not trained by the objective's loss.

    Subclasses set ``num_codebooks`` and ``codebook_size``, or ``vector_size`` if labels
    are vectors, and define ``label``. State
    (running moments, centroids, counts) belongs in persistent buffers,
    so that a checkpoint contains everything labels depend on, and changes only in
    ``observe`` and ``step``, with observations summed over ranks so that all ranks
    have the same state. Buffers stay in float32 or better whatever the
    model is cast to: in half precision, moving averages of a codebook would stall.

    Attributes:
        num_codebooks: N, labels per frame; each has its own part of the
            prediction head.
        codebook_size: V, number of distinct labels.
        differentiable: Whether gradients of the loss can flow into the vectors.
        discrete: Whether labels are codes; else they are vectors, ``codes`` is not
            defined, and the head performs regression.
        vector_size: Size of labels that are vectors.
        predictor: Hidden units of their head; 0: it is a linear layer.
        remedy: What to try if only few codes are in use, for messages.
        levels: Whether codebooks have an order, and are logged one by one.
        ready: Whether ``label`` can be called; if False, ``observe`` and ``start``
            must run before the first update. Restored from the buffer ``started``, if
            there is one.
    """

    started: torch.Tensor  # () 1 once ready; only where initialisation needs speech

    num_codebooks = 1
    codebook_size = 0
    vector_size = 0
    predictor = 0
    remedy = "look at the data (check_data), or take another labeller"
    differentiable = False
    discrete = True
    levels = False
    ready = True

    def forget(self):
        """Drop what was observed since the last update, which is not made."""

    def observe(self, vectors: torch.Tensor, valid: torch.Tensor):
        """Update the state from M vectors; called in training only, before ``label``.

        Args:
            vectors: (M, D) detached vectors.
            valid: (M,) 1 for valid rows, 0 for filler rows.
        """

    def step(self):
        """Change the state after an optimizer update; called on all ranks.

        If ``observe`` only collects, labels do not depend on the number of batches into
        which an update is divided (``accum_grad``).
        """

    def statistics(self) -> dict[str, torch.Tensor]:
        """Return scalars of the state, to be logged as ``<key>_<name>``."""
        return {}

    def start(self):
        """Finish initialisation from observed vectors; sets ``ready``.

        Raises:
            DataError: Too few vectors were observed.
        """

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Label M vectors.

        Args:
            vectors: (M, D), any floating dtype; may carry a gradient.
            update: Optimizer updates so far, for schedules.

        Returns:
            Labels of each of the N codebooks.
        """
        raise NotImplementedError

    def codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return noise-free hard codes (N, M) of M vectors."""
        raise NotImplementedError

    def remember(self, identity: dict[str, Any]):
        """Store the labels' configuration in every checkpoint.

        It is stored as text in a floating-point buffer, the only type that survives
        ESPnet's model averaging (which sums integers). Its length is fixed: ESPnet's
        ``ignore_init_mismatch`` would leave out a buffer of another one, unseen.
        """
        text = " ".join(f"{key}={value}" for key, value in identity.items())
        self.register_buffer("identity", text_as_numbers(text, IDENTITY))

    def _apply(self, fn, recurse=True):
        def keep_precise(tensor):
            new = fn(tensor)
            if new.is_floating_point() and torch.finfo(new.dtype).bits < 32:
                new = tensor.to(new.device)
            return new

        return super()._apply(keep_precise, recurse)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        own: torch.Tensor | None = getattr(self, "identity", None)
        other = state_dict.get(f"{prefix}identity")
        if other is not None:  # of an older version: shorter
            state_dict[f"{prefix}identity"] = _padded(other)
        if own is not None and other is not None and not own.is_meta:
            one, two = numbers_as_text(own), numbers_as_text(other)
            if one != two:
                raise ConfigError(
                    f"{prefix.rstrip('.')}: the configuration says '{one}', the "
                    f"checkpoint is of '{two}': change labeller_conf, or the checkpoint"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)
        started: torch.Tensor | None = getattr(self, "started", None)
        if started is not None and not started.is_meta:
            self.ready = bool(started > 0)


def _padded(numbers: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(numbers, (0, max(0, IDENTITY - len(numbers))))


def text_as_numbers(text: str, size: int) -> torch.Tensor:
    """Convert a text to its bytes as floating-point numbers, with zeros up to a size.

    Integers would be summed when ESPnet averages checkpoints.
    """
    numbers = torch.tensor(list(text.encode()), dtype=torch.float32)
    return torch.nn.functional.pad(numbers, (0, max(0, size - len(numbers))))


def numbers_as_text(numbers: torch.Tensor) -> str:
    """Convert the numbers of ``text_as_numbers`` back."""
    text = bytes(int(x) for x in numbers.round().tolist())
    return text.rstrip(b"\0").decode(errors="replace")
