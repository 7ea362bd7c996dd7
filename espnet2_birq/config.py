"""Configurations of models: an experiment's config.yaml; not trusted."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from humanfriendly import parse_size

from espnet2_birq.errors import ConfigError


def config_of(path: Path) -> Path:
    """Return the configuration beside a model, or the path if it is one."""
    return path if path.suffix in (".yaml", ".yml") else path.parent / "config.yaml"


def find_config(path: Path) -> Path:
    """Return the configuration of a model.

    Args:
        path: The config.yaml, or a model file beside it.

    Raises:
        ConfigError: One of them is missing.
    """
    config = config_of(path)
    for file in (path, config):
        if not file.is_file():
            raise ConfigError(f"{file}: no such file; give a model beside its config")
    return config


def read_config(path: Path) -> argparse.Namespace:
    """Read an experiment's config.yaml.

    Statistics of ``normalize: global_mvn`` in the same folder take precedence: the
    path in the file is relative to the working directory of the training.

    Args:
        path: The config.yaml, or a model file next to it.

    Raises:
        ConfigError: A file is missing, or no configuration.
    """
    config = find_config(path)
    with open(config, encoding="utf-8") as stream:
        try:
            options = yaml.safe_load(stream)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            why = " ".join(str(error).split())[:200]
            raise ConfigError(f"{config}: no YAML ({why}); copy it again") from error
    if not isinstance(options, dict) or not all(isinstance(x, str) for x in options):
        raise ConfigError(f"{config}: has no options of a training; copy it again")
    args = argparse.Namespace(**options)
    normalize_conf = getattr(args, "normalize_conf", None) or {}
    if "stats_file" in normalize_conf:
        beside = config.parent / Path(normalize_conf["stats_file"]).name
        if beside.is_file():
            normalize_conf["stats_file"] = str(beside)
    return args


def sampling_rate(frontend_conf: Mapping[str, Any] | None) -> int:
    """Return the sampling rate of a frontend in Hz: its ``fs``, as 16000 or "16k"."""
    fs = (frontend_conf or {}).get("fs", 16000)
    return parse_size(fs) if isinstance(fs, str) else int(fs)
