"""Show the state of experiments, whether they are running, interrupted or complete.

Shows updates and time left, losses and perplexities of the objectives, whether labels
have collapsed, the last checkpoint, the last error, and the stages of the recipe. It
needs only the experiment's files, on any machine that sees them, at any time.

A training without a sign of life for ten minutes, and for ten times the interval between
two lines of its log, counts as interrupted. Stages 1 to 4 can be seen from the recipe's
folder or below.

examples:
  python -m espnet2_birq.bin.status exp/ssl_train_birq_raw
  python -m espnet2_birq.bin.status --brief exp/*
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.errors import ConfigError, DataError, one_line


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("status", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="EXP")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="a line for each experiment that has begun, nothing for others",
    )
    return parser


def status(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.experiments.status import brief, describe

    failed = False
    for folder in args.folders:
        try:
            text = brief(folder) if args.brief else describe(folder)
        except (ConfigError, DataError, OSError) as error:
            # The other experiments are shown nevertheless.
            print(f"status: error: {one_line(error)}", file=sys.stderr)
            failed = True
            continue
        if text is not None:
            print(text)
    if failed:
        sys.exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(status, get_parser().parse_args(argv), "status")


if __name__ == "__main__":
    main()
