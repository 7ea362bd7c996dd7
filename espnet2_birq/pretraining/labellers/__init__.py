"""Labellers: vectors in, labels out; a registry by the names of the configuration."""

from espnet2_birq.pretraining.labellers.base import Labeller
from espnet2_birq.pretraining.labellers.given import GivenLabels
from espnet2_birq.pretraining.labellers.gumbel_softmax import GumbelSoftmaxLabeller
from espnet2_birq.pretraining.labellers.random_projection import (
    RandomProjectionLabeller,
)

LABELLERS = {
    "random_projection": RandomProjectionLabeller,
    "gumbel_softmax": GumbelSoftmaxLabeller,
    "given": GivenLabels,
}

__all__ = ["LABELLERS", "Labeller"]
