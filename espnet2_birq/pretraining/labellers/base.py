"""The protocol of a labeller, and what keeps it the same in every checkpoint."""

from typing import Any

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labels import Labels


class Labeller(torch.nn.Module):
    """Makes labels of vectors: the half of an objective that is not learned by it.

    A subclass sets ``num_codebooks`` and ``codebook_size`` and gives ``label``. One
    with a state (running moments, centroids, counts) keeps it in persistent buffers,
    so that a checkpoint holds all that its labels depend on, and changes it in
    ``observe`` alone; over several ranks it sums what it observes, so that all ranks
    have the same state. Buffers never become less precise than float32, whatever the
    model is cast to: a codebook that is averaged in half precision stands still.

    Attributes:
        num_codebooks: N, how many labels a frame gets; each has its own part of the
            prediction head.
        codebook_size: V, number of different labels.
        differentiable: Whether the gradient of the loss can flow into the vectors.
        ready: False while ``label`` has to wait for vectors that ``observe`` sees
            before the first update, see ``start``.
    """

    num_codebooks = 1
    codebook_size = 0
    differentiable = False
    ready = True

    def observe(self, vectors: torch.Tensor, valid: torch.Tensor):
        """Learn from M vectors; called in training only, before ``label``.

        Args:
            vectors: (M, D), without gradient.
            valid: (M,) 1 where a row counts, 0 where it is filling.
        """

    def start(self):
        """Settle what was observed before the first update; afterwards ``ready``.

        Raises:
            DataError: It is too little.
        """

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Label M vectors.

        Args:
            vectors: (M, D), any floating type; may carry a gradient.
            update: Optimizer updates made so far, for schedules.

        Returns:
            Labels of each of the N codebooks.
        """
        raise NotImplementedError

    def codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return hard codes (N, M) of M vectors, without noise."""
        raise NotImplementedError

    def remember(self, identity: dict[str, Any]):
        """Keep in every checkpoint which configuration the labels are of.

        As text in a buffer of floating-point numbers, the only type that survives
        ESPnet's averaging of models (it adds up integers).
        """
        text = " ".join(f"{key}={value}" for key, value in identity.items())
        numbers = torch.tensor(list(text.encode()), dtype=torch.float32)
        self.register_buffer("identity", numbers)

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
        if own is not None and other is not None and not own.is_meta:
            one, two = _text(own), _text(other)
            if one != two:
                raise ConfigError(
                    f"{prefix.rstrip('.')}: the configuration says '{one}', the "
                    f"checkpoint is of '{two}': change labeller_conf, or the checkpoint"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _text(numbers: torch.Tensor) -> str:
    return bytes(int(x) for x in numbers.round().tolist()).decode(errors="replace")
