"""Numeric types of command-line options, which reject NaN."""

import argparse
import math


def finite(value: str) -> float:
    """Parse a finite number.

    Raises:
        argparse.ArgumentTypeError: Not a number, NaN or infinite.
    """
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{value!r} is not a finite number")
    return number


def positive(value: str) -> float:
    """Parse a finite number greater than 0.

    Raises:
        argparse.ArgumentTypeError: Not such a number.
    """
    number = finite(value)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not a positive number")
    return number


def not_negative(value: str) -> float:
    """Parse a finite number of at least 0.

    Raises:
        argparse.ArgumentTypeError: Not such a number.
    """
    return 0.0 if finite(value) == 0 else positive(value)
