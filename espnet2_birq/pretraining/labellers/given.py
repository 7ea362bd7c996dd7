"""Labels of another model, read from disk with the speech."""

import torch

from espnet2_birq.pretraining.labellers.base import Labeller
from espnet2_birq.pretraining.labels import HardLabels, Labels
from espnet2_birq.pretraining.settings import check_whole


class GivenLabels(Labeller):
    """Passes labels through.

    Args:
        input_size: Unused.
        running: Unused.
        codebook_size: V, number of distinct labels.
    """

    remedy = "look at the labels on disk, or make them with more codes (birq units)"

    def __init__(self, input_size: int, running: bool, codebook_size: int):
        super().__init__()
        check_whole("codebook_size", codebook_size, 2)
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
