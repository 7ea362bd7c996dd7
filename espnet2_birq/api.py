"""Load models in one line."""

import tempfile
from pathlib import Path

import torch

from espnet2_birq.checkpoint import load_tensors, read_config, unpack
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.tasks.ssl import SSLTask


def load(path: str | Path, device: str = "cpu") -> BiRQModel:
    """Load a pretrained model to label speech or extract features.

    Requires only the file and its config.yaml, neither the corpus
    nor other files of its training.

    Args:
        path: Model file, e.g. exp/ssl_train_birq_raw/valid.total_count.ave.pth, or a
            zip packed by stage 8 of birq.sh.
        device: Device of the model.

    Returns:
        The model in evaluation mode.

    Raises:
        ConfigError: A file is missing, or the configuration belongs to another model.
        DataError: The model file is incomplete, or not a pretrained model.
    """
    path = Path(path)
    if path.suffix == ".zip":
        return _load_packed(path, device)
    args = read_config(path)
    if not hasattr(args, "objectives"):
        raise ConfigError(
            f"{path}: its config.yaml has no 'objectives': not a model of this package, "
            "or one of a version before 0.2"
        )
    state = load_tensors(path)
    model = SSLTask.build_model(args)
    try:
        model.load_state_dict(state)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (RuntimeError, TypeError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    return model.to(device).eval()


def _load_packed(path: Path, device: str) -> BiRQModel:
    with tempfile.TemporaryDirectory() as folder:
        models = [x for x in unpack(path, Path(folder)) if x.suffix == ".pth"]
        if len(models) != 1:
            raise DataError(f"{path}: has {len(models)} models (.pth), not one")
        return load(models[0], device)


def untrained(config: str | Path, seed: int = 0) -> BiRQModel:
    """Build the untrained model of a configuration.

    Args:
        config: YAML file of a pretraining, or a model file next to one.
        seed: Random seed of the parameters.

    Returns:
        The model in evaluation mode; input labels may need ``prepare`` first.
    """
    args = SSLTask.get_parser().parse_args(["--output_dir", "-"])
    vars(args).update(vars(read_config(Path(config))))
    torch.manual_seed(seed)
    return SSLTask.build_model(args).eval()
