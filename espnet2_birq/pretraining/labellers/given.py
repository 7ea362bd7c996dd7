"""Labels of another model, read from disk with the speech."""

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labellers.base import Labeller
from espnet2_birq.pretraining.labels import HardLabels, Labels


class GivenLabels(Labeller):
    """Passes labels through.

    Args:
        input_size: Unused.
        running: Unused.
        codebook_size: V, number of distinct labels.
    """

    def __init__(self, input_size: int, running: bool, codebook_size: int):
        super().__init__()
        if codebook_size < 2:
            raise ConfigError(f"codebook_size is 2 or more, got {codebook_size}")
        self.codebook_size = codebook_size

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Pass labels (M,) through; -1 is a frame without a label.

        Labels beyond the codebook become -1: as indices they would crash a GPU without
        a message. BatchChecks names the utterances.
        """
        return [HardLabels(torch.where(vectors < self.codebook_size, vectors, -1))]

    def codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """Pass labels (M,) through, as (1, M)."""
        return vectors[None]
