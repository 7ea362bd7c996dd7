"""Vectors themselves as labels, predicted by regression (data2vec, JEPA)."""

import torch

from espnet2_birq.pretraining.labellers.base import Labeller
from espnet2_birq.pretraining.labels import Labels, VectorLabels
from espnet2_birq.pretraining.settings import check_number, check_whole


class LatentLabeller(Labeller):
    """Passes vectors through; no codes, no state.

    Args:
        input_size: D, size of the vectors.
        running: Unused.
        beta: Error at which the loss of a value turns from squared to absolute (smooth
            L1); 0: squared everywhere, as in data2vec (arXiv 2202.03555) for speech.
        predictor: Hidden units of the head between hidden state and prediction; 0: a
            linear layer, as in data2vec.

    Raises:
        ConfigError: An option is out of range.
    """

    discrete = False

    def __init__(
        self, input_size: int, running: bool, beta: float = 0.0, predictor: int = 0
    ):
        super().__init__()
        check_number("beta", beta)
        check_whole("predictor", predictor)
        self.vector_size, self.beta, self.predictor = input_size, beta, predictor

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Pass M vectors through, detached and in single precision."""
        return [VectorLabels(vectors.detach().float(), self.beta)]
