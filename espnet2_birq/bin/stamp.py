"""Record the inputs of a stage's output, and compare them before use."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.config import training_settings
from espnet2_birq.datadir.stamp import check_stamp, write_stamp
from espnet2_birq.errors import DataError

DESCRIPTION = """\
Record the inputs of a folder or file, or compare them with the present ones. The
stages of birq.sh and finetune.sh use it so that data changed after a stage is not
silently ignored or used in part.

  write  records size and SHA-256 of each FILE, and the options, in MADE/made_from.json
         (MADE.made_from.json if MADE is a file)
  check  exits with status 1, and the changes, unless MADE has the same
         FILEs, of the same content, with the same options. Deleted FILEs are
         ignored. A missing record is accepted unless
         --required is given, and so is a record without settings (--setting,
         --config, --args), which is of an older version."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.stamp check dump/raw/train --option max_wav_duration=30 \\
      --remedy "run stage 4 again" dump/raw/org/train/wav.scp"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("stamp", DESCRIPTION, EPILOG)
    parser.add_argument("action", choices=("write", "check"))
    parser.add_argument("made", metavar="MADE", type=Path, help="folder or file")
    parser.add_argument("files", metavar="FILE", nargs="*", help="input of MADE")
    parser.add_argument(
        "--option",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting used to make it; may be repeated",
    )
    parser.add_argument(
        "--setting",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the same, where older versions recorded no settings; may be repeated",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="training configuration whose options are settings",
    )
    parser.add_argument(
        "--args",
        default="",
        metavar="OPTIONS",
        help="options of the training command that override --config, likewise",
    )
    parser.add_argument(
        "--free",
        default="",
        metavar="NAMES",
        help="options of --config and --args that may change",
    )
    parser.add_argument(
        "--required", action="store_true", help="check: a missing record is an error"
    )
    parser.add_argument(
        "--remedy", default="make it again", help="check: remedy, for the message"
    )
    return parser


def stamp(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: What get_parser() parsed.

    Raises:
        DataError: Something has changed.
    """
    options = dict(args.option)
    settings = dict(args.setting) or None
    if args.config is not None:
        free = args.free.split()
        found = training_settings(args.config, args.args.split(), free)
        settings = {**(settings or {}), **found}
    if args.action == "write":
        write_stamp(args.made, args.files, options, settings)
        return
    try:
        check_stamp(args.made, args.files, options, args.required, settings)
    except DataError as error:
        raise DataError(f"{error}: {args.remedy}") from None


def _pair(value: str) -> tuple[str, str]:
    name, equals, setting = value.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=VALUE")
    return name, setting


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(stamp, get_parser().parse_intermixed_args(argv))


if __name__ == "__main__":
    main()
