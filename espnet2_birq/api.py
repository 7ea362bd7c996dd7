"""Load models in one line."""

import re
import tempfile
from pathlib import Path

import torch

from espnet2_birq.checkpoint import load_tensors, unpack
from espnet2_birq.config import find_config, read_config
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretrained import WINDOW, PretrainedModel
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.reading import refusing
from espnet2_birq.tasks.ssl import SSLTask

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load(
    path: str | Path, device: str = "cpu", window: float | None = WINDOW
) -> PretrainedModel:
    """Load a pretrained model to label speech or extract features.

    Requires only the file and its config.yaml, neither the corpus
    nor other files of its training.

    Args:
        path: Model file, e.g. exp/ssl_train_birq_raw/valid.total_count.ave.pth; its
            folder; a zip packed by stage 8 of birq.sh; or, of a model on the Hugging
            Face hub, ``user/name``.
        device: Device of the model.
        window: Longest audio in one pass, in seconds; see PretrainedModel.

    Returns:
        The model in evaluation mode.

    Raises:
        ConfigError: A file is missing, or the configuration belongs to another model.
        DataError: The model file is incomplete, or not a pretrained model.
    """
    path = resolve(path)
    if path.suffix == ".zip":
        return PretrainedModel(_load_packed(path, device).model, window)
    return PretrainedModel(load_training_model(path, device), window)


def resolve(path: str | Path) -> Path:
    """Find a model file or zip by what load() takes; arguments and errors are its."""
    name, path = str(path), Path(path)
    if not path.exists() and HUB_NAME.fullmatch(name) and not path.suffix:
        path = _fetch(name)
    return find_model(path)


def load_training_model(path: Path, device: str = "cpu") -> BiRQModel:
    """Load a model as it is trained; arguments and errors are those of load()."""
    args = read_config(path)
    if not hasattr(args, "objectives"):
        raise ConfigError(
            f"{path}: its config.yaml has no 'objectives': not a model of this package, "
            "or one of a version before 0.2"
        )
    state = load_tensors(path)
    # Options may be anything, and ESPnet's classes raise anything for them.
    with refusing(find_config(path), "no model can be built of it", kind=ConfigError):
        model = SSLTask.build_model(args)
    try:
        model.load_state_dict(state)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (RuntimeError, TypeError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    return model.to(device).eval()


def _load_packed(path: Path, device: str) -> PretrainedModel:
    with tempfile.TemporaryDirectory() as folder:
        models = [x for x in unpack(path, Path(folder)) if x.suffix == ".pth"]
        if len(models) != 1:
            raise DataError(f"{path}: has {len(models)} models (.pth), not one")
        return load(models[0], device)


def find_model(path: Path) -> Path:
    """Find the model in a folder: an experiment, or an unpacked or downloaded model.

    Of an experiment, the average or else the best by its ``best_model_criterion``.

    Args:
        path: Folder; a file is returned as it is.

    Raises:
        ConfigError: There is no model, or there are several.
    """
    if not path.is_dir():
        return path
    configs = sorted(path.glob("config.yaml")) or sorted(path.rglob("config.yaml"))
    found = [model for config in configs for model in _models_beside(config)]
    if len(found) != 1:
        names = ", ".join(str(model.relative_to(path)) for model in found)
        raise ConfigError(
            f"{path}: has {len(found)} models beside a config.yaml"
            + (f" ({names}); give one of these files" if found else "; is it trained?")
        )
    return found[0]


def _models_beside(config: Path) -> list[Path]:
    """List the models of an experiment to choose from."""
    folder = config.parent
    criteria = getattr(read_config(config), "best_model_criterion", None) or []
    if not isinstance(criteria, list) or not all(
        isinstance(x, (list, tuple)) and len(x) > 1 for x in criteria
    ):
        raise ConfigError(f"{config}: best_model_criterion is no list of criteria")
    files = {path.name: path for path in folder.glob("*.pth")}
    for kind in ("ave", "best"):
        named = [f"{x[0]}.{x[1]}.{kind}.pth" for x in criteria]
        if there := [files[name] for name in named if name in files]:
            return there
    if (folder / "latest.pth").is_file():
        return [folder / "latest.pth"]
    return sorted(set(folder.glob("*.pth")) - {folder / "checkpoint.pth"})


def _fetch(name: str) -> Path:
    """Download a model from the Hugging Face hub, or find it in the local cache."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"{name}: no such file or folder; for models on the Hugging Face hub, pip "
            "install huggingface_hub"
        ) from error
    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.pth", "*.yaml", "*.npz"])
        )
    except (OSError, ValueError) as error:  # its errors are either
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{name}: no such file or folder here, and not to be had from the Hugging "
            f"Face hub: {why}"
        ) from error


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
