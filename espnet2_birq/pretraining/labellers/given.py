"""Labels that another model made, read from disk with the speech."""

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labellers.base import Labeller
from espnet2_birq.pretraining.labels import HardLabels, Labels


class GivenLabels(Labeller):
    """Hands labels through.

    Args:
        input_size: Not used: labels are numbers already.
        running: Not used.
        codebook_size: V, how many different labels there are.
    """

    def __init__(self, input_size: int, running: bool, codebook_size: int):
        super().__init__()
        if codebook_size < 2:
            raise ConfigError(f"codebook_size is 2 or more, got {codebook_size}")
        self.codebook_size = codebook_size

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Hand labels (M,) through; -1 is a frame without one.

        A number that is too large counts as none: as an index it would end a training
        on a GPU without a word. BatchChecks names its utterance.
        """
        return [HardLabels(torch.where(vectors < self.codebook_size, vectors, -1))]

    def codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """Hand labels (M,) through, as (1, M)."""
        return vectors[None]
