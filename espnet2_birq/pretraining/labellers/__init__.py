"""Labellers, which map vectors to labels, and their registry by configuration name."""

import importlib

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labellers.base import Labeller
from espnet2_birq.pretraining.labellers.clusters import ClusterLabeller
from espnet2_birq.pretraining.labellers.given import GivenLabels
from espnet2_birq.pretraining.labellers.gumbel_softmax import GumbelSoftmaxLabeller
from espnet2_birq.pretraining.labellers.latent import LatentLabeller
from espnet2_birq.pretraining.labellers.random_projection import (
    RandomProjectionLabeller,
)
from espnet2_birq.pretraining.labellers.residual import ResidualLabeller

LABELLERS = {
    "random_projection": RandomProjectionLabeller,
    "gumbel_softmax": GumbelSoftmaxLabeller,
    "residual": ResidualLabeller,
    "clusters": ClusterLabeller,
    "latent": LatentLabeller,
    "given": GivenLabels,
}


def labeller_class(name: str) -> type[Labeller]:
    """Find a labeller class by its name in the configuration.

    Args:
        name: One of LABELLERS, or ``module:Class`` in an importable module.

    Raises:
        ConfigError: No such class, or not a Labeller.
    """
    if isinstance(name, str) and name in LABELLERS:
        return LABELLERS[name]
    module, colon, attribute = str(name).partition(":")
    if not colon or not isinstance(name, str):
        raise ConfigError(
            f"unknown labeller {name!r}, use one of {list(LABELLERS)}, or module:Class"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(
            f"labeller {name!r}: {error}; put its folder on PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"labeller {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Labeller)):
        raise ConfigError(f"labeller {name!r} is not a Labeller of espnet2_birq")
    return found


__all__ = ["LABELLERS", "Labeller", "labeller_class"]
