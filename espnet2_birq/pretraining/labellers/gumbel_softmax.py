"""Soft labels with a gradient into the layer that makes them (BiRQ Eq. 4)."""

import torch

from espnet2_birq.pretraining.labellers.random_projection import (
    RandomProjectionLabeller,
)
from espnet2_birq.pretraining.labels import Labels, SoftLabels
from espnet2_birq.pretraining.schedule import Schedule


class GumbelSoftmaxLabeller(RandomProjectionLabeller):
    """A random draw over the codes, differentiable in the vectors (BiRQ Eq. 4).

    Labels are softmax((scores + Gumbel noise) / temperature): a code is the likeliest
    with probability softmax(scores), and the gradient of the loss reaches the layer
    that made the vectors.

    Args:
        input_size: D, size of the vectors.
        running: See RandomProjectionLabeller.
        temperature: The paper's 0.5. Towards 0 labels become one-hot. A number or a
            schedule.
        score_scale: Factor on the squared distance. Gumbel noise has a standard
            deviation of 1.28, so this decides how often the nearest code wins
            (reported as ``hit``).
        straight_through: Labels are the one code drawn; the gradient is the soft one's.
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
        self.score_scale = score_scale
        self.straight_through = straight_through

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Prepare soft labels of M vectors; they are drawn where the loss is made."""
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
