"""Options that specify a training and its amount of speech."""

import argparse
from pathlib import Path

from espnet2_birq.errors import ConfigError
from espnet2_birq.recipes import configuration

NUMBERS = "hours valid_hours utterance_seconds longest_seconds"
VALID_HOURS = 5.4  # of LibriSpeech's dev-clean
MOST = 1e12  # of any such number; counts beyond it are no longer exact


def add_speech_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that tell the configuration and the amount of speech."""
    add = parser.add_argument
    add("--config", type=configuration, required=True, help="YAML file, or birq:NAME")
    add("--hours", type=float, help="hours of training speech")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="set with utt2num_samples, e.g. dump/raw/train, for hours and lengths",
    )
    add(
        "--valid_hours",
        type=float,
        metavar="HOURS",
        help="hours of validation speech, whose time is planned at measured rates "
        f"(default: LibriSpeech dev-clean's {VALID_HOURS})",
    )
    add(
        "--utterance_seconds",
        type=float,
        default=12.3,
        metavar="S",
        help="length of utterances without --data (default: LibriSpeech's %(default)s)",
    )
    add(
        "--longest_seconds",
        type=float,
        default=24.5,
        metavar="S",
        help="utterance length for the memory, without --data (default: LibriSpeech's "
        "longest, %(default)s)",
    )


def check_speech_options(args: argparse.Namespace, names: str) -> None:
    """Check that these options, and others of a command, are numbers that can be planned.

    Args:
        args: Parsed options.
        names: More names without the dashes before, separated by spaces.

    Raises:
        ConfigError: One is not, or neither or both of --hours and --data are given.
    """
    if (args.hours is None) == (args.data is None):
        raise ConfigError("give --hours or --data: how much speech is there?")
    for option in f"{NUMBERS} {names}".split():
        value = getattr(args, option)
        if value is not None and not 0 < value < MOST:
            raise ConfigError(
                f"--{option} {value}: must be more than 0, and less than {MOST:g}"
            )
