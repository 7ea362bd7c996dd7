"""Load models in one line."""

import tempfile
import zipfile
from pathlib import Path

import torch
from espnet2.torch_utils.safe_torch_load import safe_torch_load

from espnet2_birq.checkpoint import check_model_file, read_config
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
    check_model_file(path)
    model = SSLTask.build_model(args)
    state = safe_torch_load(str(path), map_location="cpu")
    try:
        model.load_state_dict(state)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (RuntimeError, TypeError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    return model.to(device).eval()


def _load_packed(path: Path, device: str) -> BiRQModel:
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            names = archive.namelist()
            archive.extractall(folder)
            models = [name for name in names if name.endswith(".pth")]
            if len(models) != 1:
                raise DataError(f"{path}: has {len(models)} models (.pth), not one")
            return load(Path(folder) / models[0], device)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {error}") from error


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
