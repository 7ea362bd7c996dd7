"""Command-line parser, and types of numeric options, all of which reject NaN."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path


class HelpFormatter(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Help formatter that keeps line breaks and omits uninformative defaults."""

    def _get_help_string(self, action):
        text = action.help or ""
        silent = action.default is None or action.default is False
        if silent or action.default in ("", (), []) or "default" in text:
            return text
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Argument parser that treats - and _ in option names alike, as the recipes do."""

    def parse_known_args(self, args=None, namespace=None):
        """Parse arguments as argparse does."""
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args(known_names(self, args), namespace)


def known_names(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Rewrite option names as the parser spells them, treating - and _ alike.

    Args:
        parser: Any parser, including ESPnet's.
        argv: Command-line arguments.
    """
    args = list(argv)
    names = [name for action in parser._actions for name in action.option_strings]
    known = {name.replace("-", "_"): name for name in names}
    own = args.index("--") if "--" in args else len(args)
    for number, argument in enumerate(args[:own]):
        name, *value = argument.split("=", maxsplit=1)
        if name.startswith("--"):
            name = known.get(name.replace("-", "_"), name)
            args[number] = "=".join([name, *value])
    return args


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


def count(value: str) -> int:
    """Parse an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: Not such a number.
    """
    number = whole_number(value)
    if not number:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of at least 1")
    return number


def whole_number(value: str) -> int:
    """Parse an integer of at least 0 that fits a random generator, too.

    Raises:
        argparse.ArgumentTypeError: Not such a number.
    """
    if not value.isdecimal() or int(value) >= 2**32:
        raise argparse.ArgumentTypeError(f"{value!r} is not an integer of at least 0")
    return int(value)


def share(value: str) -> float:
    """Parse a number greater than 0 and at most 1.

    Raises:
        argparse.ArgumentTypeError: Not such a number.
    """
    number = positive(value)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a share of at most 1")
    return number


def output_file(value: str) -> Path:
    """Check, before the work, that a file can be written.

    Raises:
        argparse.ArgumentTypeError: It is a folder, or cannot be written.
    """
    path = Path(value)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{value} is a folder; name a file")
    return _writable(path)


def output_folder(value: str) -> Path:
    """Check, before the work, that a folder can be made or written to.

    Raises:
        argparse.ArgumentTypeError: It is a file, or cannot be written.
    """
    path = Path(value)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{value} is a file; name a folder")
    return _writable(path)


def _writable(path: Path) -> Path:
    there = path if path.exists() else next(x for x in path.parents if x.exists())
    if there != path and not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is no folder")
    if not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{there} cannot be written")
    return path


def sample_rate(value: str) -> int:
    """Parse a sample rate in Hz, in ESPnet's notation: 16k or 16000.

    Raises:
        argparse.ArgumentTypeError: Not a rate.
    """
    from humanfriendly import InvalidSize, parse_size

    try:
        rate = parse_size(value)
    except (InvalidSize, OverflowError):
        rate = 0
    if rate <= 0:
        raise argparse.ArgumentTypeError(
            f"{value!r} is no sample rate, give 16k or 16000"
        )
    return rate
