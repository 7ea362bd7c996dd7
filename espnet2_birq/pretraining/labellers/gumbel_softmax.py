"""Soft labels with a gradient into the label layer (BiRQ Eq. 4)."""

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labellers.random_projection import (
    RandomProjectionLabeller,
)
from espnet2_birq.pretraining.labels import Labels, SoftLabels
from espnet2_birq.pretraining.schedule import Schedule


class GumbelSoftmaxLabeller(RandomProjectionLabeller):
    """Gumbel-softmax samples over the codes, differentiable in the vectors (BiRQ Eq. 4).

    Labels are softmax((scores + Gumbel noise) / temperature): a code is the arg-max
    with probability softmax(scores), and gradients of the loss reach the layer
    that produced the vectors.

    Args:
        input_size: D, size of the vectors.
        running: See RandomProjectionLabeller.
        temperature: Number or schedule; 0.5 in the paper. Labels become one-hot as it
            approaches 0.
        score_scale: Factor on the squared distance. Gumbel noise has a standard
            deviation of 1.28, so this controls how often the nearest code wins
            (reported as ``hit``).
        straight_through: Hard sampled codes as labels, with the soft gradient.
        layer_norm: See RandomProjectionLabeller.
        **projection: See RandomProjectionLabeller.
    """

    differentiable = True

    def __init__(
        self,
        input_size: int,
        running: bool,
        temperature: float | list = 0.5,
        score_scale: float = 1.0,
        straight_through: bool = False,
        layer_norm: bool = True,
        **projection,
    ):
        super().__init__(input_size, running, layer_norm=layer_norm, **projection)
        self.temperature = Schedule(temperature)
        if not all(value > 0 for _, value in self.temperature.points):
            raise ConfigError(f"temperature is above 0, got {self.temperature}")
        if not isinstance(score_scale, (int, float)):
            raise ConfigError(f"score_scale is a number, got {score_scale!r}")
        self.score_scale = score_scale
        self.straight_through = straight_through

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Prepare soft labels of M vectors; the loss samples them."""
        labels: list[Labels] = []
        for book, points in enumerate(self.points(vectors)):
            weight, bias = self.code_layer(book, self.score_scale)
            labels.append(
                SoftLabels(
                    points=points,
                    code_weight=weight,
                    code_bias=bias,
                    temperature=self.temperature.at(update),
                    straight_through=self.straight_through,
                )
            )
        return labels
