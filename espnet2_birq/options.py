"""Types of command-line options that are numbers: NaN is none of them."""

import argparse
import math


def finite(value: str) -> float:
    """Parse a finite number.

    Raises:
        argparse.ArgumentTypeError: It is something else, NaN or infinite.
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
        argparse.ArgumentTypeError: It is something else.
    """
    number = finite(value)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not a positive number")
    return number


def not_negative(value: str) -> float:
    """Parse a finite number from 0 on.

    Raises:
        argparse.ArgumentTypeError: It is something else.
    """
    return 0.0 if finite(value) == 0 else positive(value)
