"""Load models in one line."""

from pathlib import Path

import torch

from espnet2_birq.config import read_config
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretrained import WINDOW, PretrainedModel
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.reading import refusing
from espnet2_birq.tasks.loading import load_model
from espnet2_birq.tasks.ssl import SSLTask, with_defaults


def load(
    path: str | Path, device: str = "cpu", window: float | None = WINDOW
) -> PretrainedModel:
    """Load a pretrained model to label speech or extract features.

    This needs only the file and its config.yaml, not the corpus or other files of the
    training.

    Args:
        path: Model file, e.g. exp/ssl_train_birq_raw/valid.total_count.ave.pth; its
            folder; a zip packed by stage 8 of birq.sh; or ``user/name`` for a model on
            the Hugging Face hub.
        device: Device of the model.
        window: Longest audio processed in one pass, in seconds; see PretrainedModel.

    Returns:
        The model in evaluation mode.

    Raises:
        ConfigError: A file is missing, or the configuration belongs to another model.
        DataError: The model file is incomplete or not a pretrained model.
    """
    return PretrainedModel(load_model(path, device), window)


def untrained(config: str | Path, seed: int | None = None) -> BiRQModel:
    """Build the untrained model of a configuration.

    Args:
        config: Pretraining configuration (YAML), or a model file next to one.
        seed: Random seed for the parameters; None: the configuration's.

    Returns:
        The model in evaluation mode; its labellers may need ``prepare`` first.

    Raises:
        ConfigError: No model can be built of it.
    """
    args = with_defaults(read_config(Path(config)))
    # Options are unchecked, and ESPnet's classes may raise any error for them.
    with (
        refusing(config, "no model can be built of it", kind=ConfigError),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(args.seed if seed is None else seed)
        return SSLTask.build_model(args).eval()
