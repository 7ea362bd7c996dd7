"""What commands share: the look of their help, options, and errors."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet2_birq.errors import ConfigError, DataError, SampleRateError, one_line
from espnet2_birq.options import Parser

# What to do about another sample rate, in a command that has this option.
RESAMPLE = "or give --resample true, if a later stage is to convert it"

_SHARED_OPTIONS: dict[str, dict[str, Any]] = {
    "--dest": {
        "required": True,
        "type": Path,
        "metavar": "DIR",
        "help": "where to write; data in a recipe",
    },
    "--fs": {
        "type": int,
        "default": 16000,
        "metavar": "HZ",
        "help": "sample rate in Hz (default: %(default)s)",
    },
    "--resample": {
        "choices": ("true", "false"),
        "default": "false",
        "help": "accept other rates than --fs, because a later stage of the recipe "
        "converts them (default: %(default)s)",
    },
    "--skip-bad": {
        "action": "store_true",
        "help": "leave out bad audio files and list them, not stop at the first",
    },
    "--nj": {
        "type": int,
        "default": 4,
        "choices": range(1, 129),
        "metavar": "N",
        "help": "how many work in parallel, 1 to 128 (default: %(default)s)",
    },
    "--dry-run": {
        "action": "store_true",
        "help": "check and count all, but write nothing",
    },
}


def make_parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Make the parser of a command, with description and examples kept as written.

    Args:
        name: Name of the command's module in espnet2_birq.bin.
        description: What it does.
        epilog: Examples.
    """
    return Parser(
        prog=f"python -m espnet2_birq.bin.{name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_shared_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options that mean the same in every data command.

    Args:
        parser: Where to add them.
        names: Some of --dest, --fs, --resample, --skip-bad, --nj, --dry-run.
    """
    for name in names:
        parser.add_argument(name, **_SHARED_OPTIONS[name])


def wanted_rate(args: argparse.Namespace) -> int | None:
    """Return the rate that audio must have, in Hz; None if any will do."""
    return None if args.resample == "true" else args.fs


def run(
    command: Callable[[argparse.Namespace], None],
    args: argparse.Namespace,
    name: str = "",
) -> None:
    """Run a command; what the user can mend is one line on stderr and status 1.

    Args:
        command: What to run.
        args: Its parsed options.
        name: Begins the line, for a command that runs among others.
    """
    where = f"{name}: error" if name else "error"
    try:
        command(args)
    except SampleRateError as error:
        # Only the options of the command that is run are any help.
        sys.exit(f"{where}: {error}" + (f", {RESAMPLE}" if "resample" in args else ""))
    except (ConfigError, DataError, OSError) as error:
        sys.exit(f"{where}: {one_line(error)}")


@contextmanager
def warnings_off() -> Iterator[None]:
    """Silence warnings while a model is built that is not going to be trained.

    logging.disable holds for the whole process: whoever calls main() from Python, as a
    test does, would never see a warning again.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
