"""Find and load pretrained models: by file, folder, zip or name on the hub."""

import re
import tempfile
from pathlib import Path
from typing import Any

from espnet2_birq.checkpoint import load_tensors, unpack
from espnet2_birq.config import find_config, read_config, read_criteria
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.reading import refusing
from espnet2_birq.tasks.ssl import SSLTask, with_defaults

SAFETENSORS = "model.safetensors"
MODEL_FILES = ["*.pth", SAFETENSORS, "*.yaml", "*.npz", "README.md"]  # on the hub
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load_model(path: str | Path, device: str = "cpu") -> BiRQModel:
    """Load a pretrained model as it was trained, in evaluation mode.

    Args:
        path: Model file, its folder, a packed zip, or a name on the hub; see api.load.
        device: Device of the model.

    Raises:
        ConfigError: A file is missing, or the configuration belongs to another model.
        DataError: The model file is incomplete, or not a pretrained model.
    """
    path = resolve(path)
    if path.suffix != ".zip":
        return _load(path, device)
    with tempfile.TemporaryDirectory() as folder:
        models = [x for x in unpack(path, Path(folder)) if x.suffix == ".pth"]
        if len(models) != 1:
            raise DataError(f"{path}: has {len(models)} models (.pth), not one")
        return _load(models[0], device)


def resolve(path: str | Path) -> Path:
    """Find a model file or zip; arguments and errors are those of load_model()."""
    name, path = str(path), Path(path)
    if not path.exists() and HUB_NAME.fullmatch(name) and not path.suffix:
        path = fetch(name)
    return find_model(path)


def _load(path: Path, device: str) -> BiRQModel:
    args = read_config(path)
    if not hasattr(args, "objectives"):
        raise ConfigError(
            f"{path}: its config.yaml has no 'objectives': not a model of this package, "
            "or one of a version before 0.2"
        )
    state = load_tensors(path)
    # Options are unchecked, and ESPnet's classes may raise any error for them.
    with refusing(find_config(path), "no model can be built of it", kind=ConfigError):
        model = SSLTask.build_model(with_defaults(args))
    try:
        model.load_state_dict(state)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (RuntimeError, TypeError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    return to_device(model.eval(), device)


def to_device(model: BiRQModel, device: str) -> BiRQModel:
    """Move a model to a device.

    Raises:
        ConfigError: There is no such device.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split())[:120]
        raise ConfigError(f"--device {device}: {why}") from error


def find_model(path: Path) -> Path:
    """Find the model in a folder: an experiment, or an unpacked or downloaded model.

    In an experiment, this is the averaged model of its ``best_model_criterion``, or else
    the best; with several criteria that of the first on validation data, as in our
    recipes.

    Args:
        path: Folder; a file is returned unchanged.

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
    """List the candidate models of an experiment."""
    folder = config.parent
    # Sorting is stable: those on validation data come first, in their order.
    criteria = sorted(read_criteria(config), key=lambda one: one[0] != "valid")
    files = {path.name: path for path in folder.glob("*.pth")}
    for kind in ("ave", "best"):
        named = [f"{part}.{key}.{kind}.pth" for part, key in criteria]
        if there := [files[name] for name in named if name in files]:
            return there[:1]
    if (folder / "latest.pth").is_file():
        return [folder / "latest.pth"]
    found = sorted(set(folder.glob("*.pth")) - {folder / "checkpoint.pth"})
    return found or sorted(folder.glob(SAFETENSORS))


def fetch(name: str, **options: Any) -> Path:
    """Download a model from the Hugging Face hub, or find it in the local cache.

    Args:
        name: ``user/name``.
        **options: Options of huggingface_hub's snapshot_download.

    Raises:
        ConfigError: The model cannot be obtained.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"{name}: no such file or folder; for models on the Hugging Face hub, pip "
            "install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=MODEL_FILES, **options))
    except (OSError, ValueError) as error:  # all of the hub's errors
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{name}: no such file or folder here, and not available from the Hugging "
            f"Face hub: {why}"
        ) from error
