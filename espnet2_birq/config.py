"""Untrusted configurations of models: an experiment's config.yaml."""

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from humanfriendly import InvalidSize, parse_size

from espnet2_birq.errors import ConfigError
from espnet2_birq.reading import read_yaml, refusing


def config_of(path: Path) -> Path:
    """Return the configuration beside a model, or the path if it is one."""
    return path if path.suffix in (".yaml", ".yml") else path.parent / "config.yaml"


def find_config(path: Path) -> Path:
    """Return the configuration of a model.

    Args:
        path: The config.yaml, or a model file beside it.

    Raises:
        ConfigError: The model or its configuration is missing.
    """
    config = config_of(path)
    for file in (path, config):
        if not file.is_file():
            raise ConfigError(f"{file}: no such file; give a model beside its config")
    return config


def read_config(path: Path) -> argparse.Namespace:
    """Read an experiment's config.yaml.

    A statistics file of ``normalize: global_mvn`` in the same folder takes precedence,
    since the configured path is relative to the working directory of the training.

    Args:
        path: The config.yaml, or a model file next to it.

    Raises:
        ConfigError: A file is missing or is not a configuration.
    """
    config = find_config(path)
    options = read_yaml(config, "copy it again")
    if not isinstance(options, dict) or not all(isinstance(x, str) for x in options):
        raise ConfigError(f"{config}: has no training options; copy it again")
    args = argparse.Namespace(**options)
    normalize_conf = getattr(args, "normalize_conf", None) or {}
    if not isinstance(normalize_conf, dict):
        raise ConfigError(f"{config}: normalize_conf has no options; copy it again")
    if isinstance(normalize_conf.get("stats_file"), str):
        beside = config.parent / Path(normalize_conf["stats_file"]).name
        with refusing(config, "its stats_file is no path", kind=ConfigError):
            if beside.is_file():
                normalize_conf["stats_file"] = str(beside)
    return args


def read_asr_config(path: Path) -> argparse.Namespace:
    """Read an ASR experiment's config.yaml as read_config() does.

    Raises:
        ConfigError: A file is missing, or is of another kind of model.
    """
    args = read_config(path)
    if getattr(args, "token_list", None) is None:
        raise ConfigError(
            f"{find_config(path)}: is not of an ASR model, it has no token_list"
        )
    return args


def training_settings(
    config: Path, arguments: Sequence[str] = (), free: Collection[str] = ()
) -> dict[str, str]:
    """Return the options of a training, to compare them with another time's.

    Args:
        config: Training configuration.
        arguments: Options of the training command that override it.
        free: Names of options to leave out.

    Returns:
        Mapping from name to value. Names of `arguments` keep their "--".

    Raises:
        ConfigError: The file is missing or is not a configuration.
    """
    found = {
        name: json.dumps(value, sort_keys=True, default=str)
        for name, value in vars(read_config(config)).items()
        if name not in free
    }
    given: dict[str, list[str]] = {}
    name = ""
    for word in arguments:
        if word.startswith("--"):
            name, _, word = word[2:].partition("=")
            name = name.replace("-", "_")
        if name and name not in free:
            given.setdefault(f"--{name}", []).extend([word] if word else [])
    found.update((name, " ".join(words)) for name, words in given.items())
    return found


def count_of(options: Mapping[str, Any], key: str, default: int | None = None) -> Any:
    """Return an option's integer value of at least 1, or None if that is the default.

    Raises:
        ConfigError: The option has another value.
    """
    value = options.get(key, default)
    if (value is None and default is None) or (type(value) is int and value >= 1):
        return value
    raise ConfigError(f"{key} is a number of 1 or more, got {value!r}")


def options_of(options: Mapping[str, Any], where: Path, **types: type) -> Any:
    """Return required options, in the order of the keyword arguments.

    Args:
        options: Options of a configuration.
        where: File of the configuration, for the message.
        **types: Types of the options, by name.

    Raises:
        ConfigError: An option is missing or has another type.
    """
    for key, kind in types.items():
        if not isinstance(options.get(key), kind):
            raise ConfigError(f"{where}: has no {key}; copy it again")
    return [options[key] for key in types]


def data_lists(options: Mapping[str, Any], kind: str) -> list[tuple[str, str, str]]:
    """Return path, name and type of the "train" or "valid" data.

    Raises:
        ConfigError: The option is not a list of such triples.
    """
    key = f"{kind}_data_path_and_name_and_type"
    lists = options.get(key) or []
    if not isinstance(lists, list) or not all(
        isinstance(x, (list, tuple))
        and len(x) == 3
        and all(isinstance(y, str) for y in x)
        for x in lists
    ):
        raise ConfigError(f"{key}: is no list of path, name and type")
    return [tuple(x) for x in lists]


def sampling_rate(frontend_conf: Mapping[str, Any] | None) -> int:
    """Return a frontend's sampling rate ``fs`` in Hz, configured as 16000 or "16k".

    Raises:
        ConfigError: ``fs`` is not a sampling rate.
    """
    try:
        fs = (frontend_conf or {}).get("fs", 16000)
        rate = parse_size(fs) if isinstance(fs, str) else int(fs)
    except (InvalidSize, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ConfigError(f"frontend_conf: no sampling rate fs: {error}") from error
    if rate <= 0:
        raise ConfigError(f"frontend_conf: fs is a sampling rate in Hz, got {fs!r}")
    return rate


def read_criteria(path: Path) -> list[tuple[str, str]]:
    """Read by what ESPnet selects the best epochs, such as ("valid", "loss").

    Args:
        path: The config.yaml, a model file next to it, or a training configuration.

    Raises:
        ConfigError: A file is missing, or best_model_criterion is not a list of criteria.
    """
    criteria = getattr(read_config(path), "best_model_criterion", None) or []
    if not isinstance(criteria, list) or not all(
        isinstance(x, (list, tuple)) and len(x) > 1 for x in criteria
    ):
        raise ConfigError(f"{path}: best_model_criterion is no list of criteria")
    return [(str(x[0]), str(x[1])) for x in criteria]


def averaged_model(path: Path) -> str:
    """Return the file name of the averaged model that a training will leave.

    It is that of the first criterion on validation data; without any, ESPnet's default.

    Args:
        path: Training configuration, or an experiment's config.yaml.

    Raises:
        ConfigError: As by read_criteria().
    """
    found = [key for part, key in read_criteria(path) if part == "valid"]
    return f"valid.{found[0] if found else 'acc'}.ave.pth"
