"""Checks of single values of the configuration."""

import math
from typing import Any

from espnet2_birq.errors import ConfigError

LARGEST = 2**63 - 1  # of PyTorch's integers


def check_whole(name: str, value: Any, least: int = 0) -> None:
    """Check that a setting is a whole number of at least `least`.

    Raises:
        ConfigError: It is not.
    """
    if type(value) is not int or not least <= value <= LARGEST:
        raise ConfigError(f"{name} is a whole number of {least} or more, got {value!r}")


def check_number(
    name: str, value: Any, least: float = 0.0, most: float = math.inf
) -> None:
    """Check that a setting is a finite number in a range.

    Raises:
        ConfigError: It is not.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        limits = f"of {least:g} or more" if most == math.inf else ""
        limits = limits or f"from {least:g} to {most:g}"
        raise ConfigError(f"{name} is a number {limits}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Check that a setting is true or false.

    Raises:
        ConfigError: It is not, e.g. the text "false".
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is true or false, got {value!r}")


def check_one_of(name: str, value: Any, known: Any) -> None:
    """Check that a setting is one of some values.

    Raises:
        ConfigError: It is not.
    """
    if value not in known:
        raise ConfigError(f"unknown {name} {value!r}, use one of {list(known)}")
