"""Shared help format, options and error handling of commands."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet2_birq.errors import ConfigError, DataError, SampleRateError, one_line
from espnet2_birq.options import HelpFormatter, Parser, sample_rate

# Remedy for an unexpected sample rate, in commands that have this option.
RESAMPLE = "or give --resample true, if a later stage is to convert it"
MODULES = "python -m espnet2_birq.bin."

_SHARED_OPTIONS: dict[str, dict[str, Any]] = {
    "--dest": {
        "required": True,
        "type": Path,
        "metavar": "DIR",
        "help": "output directory (recipes use data)",
    },
    "--fs": {
        "type": sample_rate,
        "default": 16000,
        "metavar": "HZ",
        "help": "sample rate in Hz; 16k is 16000",
    },
    "--resample": {
        "choices": ("true", "false"),
        "default": "false",
        "help": "accept other rates than --fs, to be converted by a later stage of the "
        "recipe",
    },
    "--skip_bad": {
        "action": "store_true",
        "help": "skip and list bad audio, and accept what is missing, instead of stopping",
    },
    "--nj": {
        "type": int,
        "default": 4,
        "choices": range(1, 129),
        "metavar": "N",
        "help": "number of parallel jobs, 1 to 128",
    },
    "--dry_run": {"action": "store_true", "help": "check and count all, write nothing"},
}


def make_parser(name: str, description: str | None, epilog: str = "") -> Parser:
    """Make the parser of a command; texts name commands as they were called.

    Args:
        name: Name of the command's module in espnet2_birq.bin.
        description: Description of the command.
        epilog: Examples.
    """
    called = "birq " if Path(sys.argv[0]).name == "birq" else MODULES
    return Parser(
        prog=called + name,
        description=(description or "").replace(MODULES, called),
        epilog=epilog.replace(MODULES, called),
        formatter_class=HelpFormatter,
    )


def add_shared_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options shared by the data commands.

    Args:
        parser: Parser of the command.
        names: Some of --dest, --fs, --resample, --skip_bad, --nj, --dry_run.
    """
    for name in names:
        parser.add_argument(name, **_SHARED_OPTIONS[name])


def wanted_rate(args: argparse.Namespace) -> int | None:
    """Return the required sample rate in Hz; None: any."""
    return None if args.resample == "true" else args.fs


def run(
    command: Callable[[argparse.Namespace], None],
    args: argparse.Namespace,
    name: str = "",
) -> None:
    """Run a command; user errors are one line on stderr and exit status 1.

    Args:
        command: Function of the command.
        args: Parsed options.
        name: Prefix of the line, for commands that run among others.
    """
    where = f"{name}: error" if name else "error"
    try:
        command(args)
    except SampleRateError as error:
        sys.exit(f"{where}: {error}" + (f", {RESAMPLE}" if "resample" in args else ""))
    except BrokenPipeError:  # e.g. of `... | head`, which has read enough
        os._exit(128 + signal.SIGPIPE)  # sys.exit would flush into the pipe again
    except (ConfigError, DataError, OSError) as error:
        sys.exit(f"{where}: {one_line(error)}")


@contextmanager
def warnings_off() -> Iterator[None]:
    """Silence warnings while building a model that is not trained."""
    before = logging.root.manager.disable  # global, also for tests in this process
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
