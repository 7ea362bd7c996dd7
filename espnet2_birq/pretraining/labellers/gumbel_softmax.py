"""Soft labels with a gradient into the label layer (BiRQ Eq. 4)."""

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labellers.random_projection import (
    RandomProjectionLabeller,
)
from espnet2_birq.pretraining.labels import Labels, SoftLabels
from espnet2_birq.pretraining.schedule import Schedule
from espnet2_birq.pretraining.settings import check_flag, check_number

LEAST_SCALE = 1e-6  # of scores; below, and at 0, a label is noise alone


class GumbelSoftmaxLabeller(RandomProjectionLabeller):
    """Gumbel-softmax samples over the codes, differentiable in the vectors (BiRQ Eq. 4).

    Labels are softmax((scores + Gumbel noise) / temperature): a code is the arg-max
    with probability softmax(scores), and gradients of the loss reach the layer
    that produced the vectors.

    Args:
        input_size: D, size of the vectors.
        running: See RandomProjectionLabeller.
        temperature: Number or schedule; 0.5 in the paper. Labels become one-hot as it
            approaches 0. In evaluation mode, it is the last of the schedule, so that
            validation losses are comparable between epochs.
        score_scale: Factor on the squared distance. Gumbel noise has a standard
            deviation of 1.28, so this controls how often the nearest code wins
            (reported as ``hit``).
        straight_through: Hard sampled codes as labels, with the soft gradient.
        layer_norm: See RandomProjectionLabeller.
        **projection: See RandomProjectionLabeller.
    """

    differentiable = True
    remedy = (
        "whiten its labels (labeller_conf: {projection: whitened}), give it a head of its "
        "own, or, if its labels are of a layer, raise their usage entropy (diversity: 0.3) "
        "or stop their gradient (gradient: 0)"
    )

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
        if not self.temperature.least > 0:
            raise ConfigError(f"temperature is above 0, got {self.temperature}")
        check_number("score_scale", score_scale, LEAST_SCALE)
        check_flag("straight_through", straight_through)
        self.score_scale = score_scale
        self.straight_through = straight_through

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Prepare soft labels of M vectors; the loss samples them."""
        labels: list[Labels] = []
        schedule = self.temperature
        temperature = schedule.at(update) if self.training else schedule.last
        for book, points in enumerate(self.points(vectors)):
            weight, bias = self.code_layer(book, self.score_scale)
            labels.append(
                SoftLabels(
                    points=points,
                    code_weight=weight,
                    code_bias=bias,
                    temperature=temperature,
                    straight_through=self.straight_through,
                )
            )
        return labels
